/*-------------------------------------------------------------------------
 *
 * maintain.c
 *	  SQL functions that admin acts and jobs are made of.
 *
 * They leave no audit row: the SQL function that calls them does.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "amount_numeric.h"
#include "guard.h"
#include "post.h"

PG_FUNCTION_INFO_V1(quota_adjust_account);
PG_FUNCTION_INFO_V1(quota_reset_account);
PG_FUNCTION_INFO_V1(quota_tidy_account);
PG_FUNCTION_INFO_V1(quota_repay_overage);
PG_FUNCTION_INFO_V1(quota_lock_accounts);

static void
read_account(FunctionCallInfo fcinfo, RequestKind kind, const char *function,
			 Request *request, RequestItem *item)
{
	guard_can_write(function);
	memset(request, 0, sizeof(*request));
	memset(item, 0, sizeof(*item));
	request->kind = kind;
	request->items = item;
	request->nitems = 1;
	item->user_id = guard_user_id(fcinfo, 0);
	item->metric = guard_metric(fcinfo, 1);
}

Datum
quota_adjust_account(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	read_account(fcinfo, REQUEST_ADJUST, "adjust_usage()", &request, &item);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("adjustment must not be null"),
				 errhint("Pass the units to add to the usage, or to take off it as a negative number.")));
	item.amount = amount_from_difference(PG_GETARG_NUMERIC(2));
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_reset_account(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	read_account(fcinfo, REQUEST_RESET, "reset_user_quota()", &request, &item);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_tidy_account(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	read_account(fcinfo, REQUEST_TIDY, "tidy_account()", &request, &item);
	post(&request, &outcome);
	PG_RETURN_BOOL(outcome.allowed);
}

Datum
quota_repay_overage(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;
	Amount		repaid = 0;

	read_account(fcinfo, REQUEST_REPAY, "repay_overage()", &request, &item);
	/* one event at a time */
	do
	{
		CHECK_FOR_INTERRUPTS();
		post(&request, &outcome);
		if (outcome.allowed)
			repaid += outcome.bonus_used;
	} while (outcome.allowed);
	PG_RETURN_DATUM(amount_get_datum(repaid));
}

/* Lock the accounts of some subjects, so that nobody else moves anything there */
Datum
quota_lock_accounts(PG_FUNCTION_ARGS)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;
	pg_uuid_t  *user_ids;

	guard_can_write("lock_accounts()");
	if (PG_ARGISNULL(0))
		(void) guard_user_id(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					  &elements, &nulls, &n);
	user_ids = palloc((n + 1) * sizeof(pg_uuid_t));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("user id must not be null"),
					 errhint("Pass the uuid of the user, team or tenant.")));
		user_ids[i] = *DatumGetUUIDP(elements[i]);
	}
	post_lock(user_ids, n, guard_metric(fcinfo, 1));
	PG_RETURN_VOID();
}

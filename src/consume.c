/*-------------------------------------------------------------------------
 *
 * consume.c
 *	  SQL functions that consume and check: arguments in, outcome out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "guard.h"
#include "post.h"

PG_FUNCTION_INFO_V1(quota_check_and_consume_quota);
PG_FUNCTION_INFO_V1(quota_require_quota);
PG_FUNCTION_INFO_V1(quota_check_quota);
PG_FUNCTION_INFO_V1(quota_consume_up_to);

Datum
quota_check_and_consume_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_write("check_and_consume_quota()");
	guard_request(fcinfo, 3, 4, &request, &item);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_require_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_write("require_quota()");
	guard_request(fcinfo, 3, 4, &request, &item);
	post(&request, &outcome);
	if (!outcome.allowed)
		outcome_raise_denied(&outcome, item.amount);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_check_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_read("check_quota()");
	guard_request(fcinfo, -1, -1, &request, &item);
	request.dry_run = true;
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_consume_up_to(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_write("consume_up_to()");
	guard_request(fcinfo, 3, 4, &request, &item);
	request.up_to = true;
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

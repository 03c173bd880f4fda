/*-------------------------------------------------------------------------
 *
 * reserve.c
 *	  SQL functions that set quota aside, and undo what was charged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "guard.h"
#include "post.h"

/* how long a reservation holds */
#define TTL_MIN		USECS_PER_SEC
#define TTL_MAX		USECS_PER_DAY

PG_FUNCTION_INFO_V1(quota_reserve_quota);
PG_FUNCTION_INFO_V1(quota_settle_reservation);
PG_FUNCTION_INFO_V1(quota_cancel_reservation);
PG_FUNCTION_INFO_V1(quota_refund_quota);

/* A length of time in microseconds; days have 24 hours, months are refused */
static int64
read_ttl(FunctionCallInfo fcinfo, int arg)
{
	Interval   *ttl;
	int64		usecs = 0;

	if (!PG_ARGISNULL(arg))
	{
		ttl = PG_GETARG_INTERVAL_P(arg);
		/* nothing beyond the bounds can overflow */
		if (ttl->month == 0 && ttl->day >= -2 && ttl->day <= 2 &&
			ttl->time >= -4 * USECS_PER_DAY && ttl->time <= 4 * USECS_PER_DAY)
			usecs = ttl->day * USECS_PER_DAY + ttl->time;
	}
	if (usecs < TTL_MIN || usecs > TTL_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reservation must hold for 1 second to 24 hours"),
				 errdetail("The time to live is %s.", PG_ARGISNULL(arg) ? "NULL" :
						   DatumGetCString(DirectFunctionCall1(interval_out,
															   PG_GETARG_DATUM(arg)))),
				 errhint("Reserve again for work that takes longer.")));
	return usecs;
}

Datum
quota_reserve_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	RequestItem item;
	Outcome		outcome;

	guard_can_write("reserve_quota()");
	guard_request(fcinfo, 4, 5, &request, &item);
	request.kind = REQUEST_RESERVE;
	request.ttl = read_ttl(fcinfo, 3);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

static pg_uuid_t
read_reservation_id(FunctionCallInfo fcinfo)
{
	return guard_id(fcinfo, 0, "reservation id",
					"Pass the reservation_id that reserve_quota returned.");
}

Datum
quota_settle_reservation(PG_FUNCTION_ARGS)
{
	Request		request = {.kind = REQUEST_SETTLE};
	Outcome		outcome;

	guard_can_write("settle_reservation()");
	request.event_id = read_reservation_id(fcinfo);
	request.has_amount = !PG_ARGISNULL(1);
	if (request.has_amount)
		request.amount = amount_from_argument_or_zero(PG_GETARG_NUMERIC(1));
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_cancel_reservation(PG_FUNCTION_ARGS)
{
	Request		request = {.kind = REQUEST_CANCEL};
	Outcome		outcome;

	guard_can_write("cancel_reservation()");
	request.event_id = read_reservation_id(fcinfo);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_refund_quota(PG_FUNCTION_ARGS)
{
	Request		request = {.kind = REQUEST_REFUND};
	Outcome		outcome;

	guard_can_write("refund_quota()");
	request.event_id = guard_id(fcinfo, 0, "event id",
								"Pass the event_id of the answer that granted the units.");
	request.has_amount = !PG_ARGISNULL(1);
	if (request.has_amount)
		request.amount = guard_amount(fcinfo, 1);
	request.metadata = guard_reason(fcinfo, 2);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

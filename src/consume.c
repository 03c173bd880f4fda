/*-------------------------------------------------------------------------
 *
 * consume.c
 *	  SQL functions that consume and check: arguments in, outcome out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "errors.h"
#include "guard.h"
#include "post.h"

PG_FUNCTION_INFO_V1(quota_check_and_consume_quota);
PG_FUNCTION_INFO_V1(quota_require_quota);
PG_FUNCTION_INFO_V1(quota_check_quota);

Datum
quota_check_and_consume_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	Outcome		outcome;

	guard_can_write("check_and_consume_quota()");
	guard_request(fcinfo, &request);
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

static void
raise_denied(const Request *request, const Outcome *o)
{
	char	   *limit = o->no_limit ? "none" : amount_to_string(o->limit_amount);

	ereport(ERROR,
			(errcode(ERRCODE_QUOTA_EXCEEDED),
			 errmsg("quota for \"%s\" denied: %s", o->metric, o->reason),
			 errdetail("Requested %s, remaining %s, limit %s%s%s.",
					   amount_to_string(request->amount),
					   o->unlimited ? "unlimited" : amount_to_string(o->remaining),
					   o->unlimited ? "unlimited" : limit,
					   o->period ? " per " : "", o->period ? o->period : ""),
			 o->retry_after == DECISION_NEVER ? 0 :
			 errhint("The same request can succeed from %s on.",
					 timestamptz_to_str(o->decided_at + o->retry_after))));
}

Datum
quota_require_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	Outcome		outcome;

	guard_can_write("require_quota()");
	guard_request(fcinfo, &request);
	post(&request, &outcome);
	if (!outcome.allowed)
		raise_denied(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

Datum
quota_check_quota(PG_FUNCTION_ARGS)
{
	Request		request;
	Outcome		outcome;

	guard_can_read("check_quota()");
	guard_request(fcinfo, &request);
	request.dry_run = true;
	post(&request, &outcome);
	PG_RETURN_DATUM(outcome_get_datum(&outcome));
}

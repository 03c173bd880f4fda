/*-------------------------------------------------------------------------
 *
 * audit.c
 *	  The audit log: one row for each decision.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "audit.h"
#include "id.h"

/*
 * Log a decision on a request of units that a subject made.  "waited" tells that the call met another one on the same
 * account and had to wait for it.
 */
void
audit_insert(RelationSet *set, const pg_uuid_t *user_id, const char *action,
			 Amount attempted, const Outcome *outcome, bool waited, TimestampTz at)
{
	Datum		values[Natts_quota_audit_log] = {0};
	bool		nulls[Natts_quota_audit_log] = {false};
	pg_uuid_t	id;

	id_generate(at, &id);
	values[Anum_quota_audit_log_id - 1] = UUIDPGetDatum(&id);
	values[Anum_quota_audit_log_user_id - 1] = UUIDPGetDatum(user_id);
	values[Anum_quota_audit_log_metric - 1] = CStringGetTextDatum(outcome->metric);
	values[Anum_quota_audit_log_attempted_amount - 1] = amount_get_datum(attempted);
	values[Anum_quota_audit_log_success - 1] = BoolGetDatum(outcome->allowed);
	values[Anum_quota_audit_log_reason - 1] =
		CStringGetTextDatum(outcome->already_processed ? "replay" : outcome->reason);
	values[Anum_quota_audit_log_plan_limit - 1] = amount_get_datum(outcome->limit_amount);
	nulls[Anum_quota_audit_log_plan_limit - 1] = outcome->unlimited || outcome->no_limit;
	values[Anum_quota_audit_log_current_usage - 1] = amount_get_datum(outcome->used);
	values[Anum_quota_audit_log_remaining - 1] = amount_get_datum(outcome->remaining);
	nulls[Anum_quota_audit_log_remaining - 1] = outcome->unlimited;
	if (outcome->period)
		values[Anum_quota_audit_log_period - 1] = CStringGetTextDatum(outcome->period);
	nulls[Anum_quota_audit_log_period - 1] = (outcome->period == NULL);
	values[Anum_quota_audit_log_action - 1] = CStringGetTextDatum(action);
	values[Anum_quota_audit_log_event_id - 1] = UUIDPGetDatum(&outcome->event_id);
	nulls[Anum_quota_audit_log_event_id - 1] = !outcome->has_event;
	values[Anum_quota_audit_log_waited - 1] = BoolGetDatum(waited);
	nulls[Anum_quota_audit_log_actor - 1] = true;
	nulls[Anum_quota_audit_log_detail - 1] = true;
	values[Anum_quota_audit_log_created_at - 1] = TimestampTzGetDatum(at);
	relation_insert(set, TABLE_QUOTA_AUDIT_LOG, values, nulls, false);
}

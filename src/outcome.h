/*-------------------------------------------------------------------------
 *
 * outcome.h
 *	  The answer to a request, and its SQL type quota.outcome.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_OUTCOME_H
#define QUOTA_OUTCOME_H

#include "datatype/timestamp.h"
#include "nodes/execnodes.h"
#include "utils/uuid.h"

#include "decision.h"

typedef struct Outcome
{
	bool		allowed;
	bool		already_processed;
	bool		unlimited;		/* remaining and limit_amount are null */
	bool		no_limit;		/* no window: also limit_amount is null */
	Amount		remaining;
	Amount		limit_amount;
	Amount		bonus_used;
	const char *reason;
	const char *metric;
	const char *period;			/* NULL if no_limit */
	Amount		used;
	Amount		bonus_remaining;
	Amount		overage;
	Money		cost;
	Amount		granted;		/* moved by the call; negative: given back */
	bool		has_shortfall;
	Amount		shortfall;
	pg_uuid_t	binding_user_id;	/* null if no_limit */
	bool		has_reservation;
	pg_uuid_t	reservation_id;
	TimestampTz period_start;	/* null if no_limit */
	TimestampTz resets_at;		/* DT_NOEND = null */
	int64		retry_after;	/* microseconds; DECISION_NEVER = null */
	TimestampTz decided_at;		/* not in the row; 0 for a replay */
	bool		has_event;
	pg_uuid_t	event_id;
	Datum		datum;			/* this as quota.outcome, once it was needed; 0
								 * until then */
} Outcome;

extern Datum outcome_get_datum(Outcome *outcome);
extern void outcome_copy(Outcome *outcome);
extern void outcome_raise_denied(const Outcome *outcome, Amount amount);
extern void outcome_put(ReturnSetInfo *rsinfo, Outcome *outcome);
extern void outcome_from_datum(Datum datum, Outcome *outcome);

#endif							/* QUOTA_OUTCOME_H */

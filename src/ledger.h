/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  The ledger: one event for each account set that a request moved.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_LEDGER_H
#define QUOTA_LEDGER_H

#include "decision.h"
#include "outcome.h"
#include "relation.h"

#define KEY_HASH_LEN	32

typedef struct KeyHash
{
	int32		vl_len_;		/* a bytea */
	uint8		hash[KEY_HASH_LEN];
} KeyHash;

typedef enum EventKind
{
	EVENT_CONSUME,
	EVENT_RELEASE,
	EVENT_SET_GAUGE,
	EVENT_ADJUST,
	EVENT_RESERVE,
	EVENT_SETTLE,
	EVENT_CANCEL,
	EVENT_EXPIRE,
	EVENT_REFUND,
	EVENT_REPAY
} EventKind;

/* What an event moved in one bonus */
typedef struct EventLine
{
	pg_uuid_t	bonus_id;
	Amount		amount;
	Amount		held;
	int			ordinal;		/* place in the order of use */
	bool		expired;		/* given back to a bonus that is of no use */
} EventLine;

typedef struct Event
{
	pg_uuid_t	id;
	pg_uuid_t	user_id;
	const char *metric;
	EventKind	kind;
	Movement	moved;
	Amount		requested;		/* = the units moved, unless told otherwise */
	const char *period;			/* window of the allowance */
	List	   *rate_periods;	/* char *: the other windows */
	const KeyHash *key;			/* or NULL */
	Outcome    *outcome;		/* to be kept, or NULL */
	Datum		metadata;		/* or 0 */
	TimestampTz created_at;
	TimestampTz effective_at;	/* of the period that it counts in */
	bool		has_refers_to;
	pg_uuid_t	refers_to;
	TimestampTz expires_at;		/* DT_NOEND: does not */
	EventLine  *lines;
	int			nlines;
} Event;

extern const char *event_kind_name(EventKind kind);
extern void ledger_hash_key(const pg_uuid_t *user_id, const char *metric,
							const text *key, KeyHash *out);
extern bool ledger_find_key(RelationSet *set, const KeyHash *key, Event *event);
extern bool ledger_find(RelationSet *set, const pg_uuid_t *id,
						RelationView view, Event *event);
extern List *ledger_find_referring(RelationSet *set, const pg_uuid_t *id,
								   RelationView view);
extern List *ledger_find_reserves(RelationSet *set, const pg_uuid_t *user_id,
								  const char *metric, TimestampTz from,
								  TimestampTz to, RelationView view);
extern List *ledger_find_overage(RelationSet *set, const pg_uuid_t *user_id,
								 const char *metric, TimestampTz from,
								 RelationView view);
extern void ledger_read_lines(RelationSet *set, RelationView view, Event *event);
extern void ledger_insert(RelationSet *set, Event *event);

#endif							/* QUOTA_LEDGER_H */

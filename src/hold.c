/*-------------------------------------------------------------------------
 *
 * hold.c
 *	  Holds: what reservations have set aside.
 *
 * A hold is the event of its reservation as long as no other event settles,
 * cancels or expires it.  It counts until the instant of its expiry, whoever
 * looks, because whoever reads an account first takes off it what has lapsed
 * (charge.c); whoever writes the account writes that, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "hold.h"

/* Of the events that refer to a reservation, the one that ended it, or NULL */
Event *
hold_find_resolution(List *referring)
{
	ListCell   *lc;

	foreach(lc, referring)
	{
		Event	   *event = lfirst(lc);

		if (event->kind == EVENT_SETTLE || event->kind == EVENT_CANCEL ||
			event->kind == EVENT_EXPIRE)
			return event;
	}
	return NULL;
}

/* The event that ended a reservation, or NULL as long as it is open */
Event *
hold_resolution(RelationSet *set, const pg_uuid_t *reserve_id, RelationView view)
{
	return hold_find_resolution(ledger_find_referring(set, reserve_id, view));
}

/*
 * The open holds of a subject and metric that end between two instants, both
 * included, with their lines: a list of Event
 */
List *
hold_find_lapsed(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
				 TimestampTz from, TimestampTz now, RelationView view)
{
	List	   *lapsed = NIL;
	ListCell   *lc;

	foreach(lc, ledger_find_reserves(set, user_id, metric, from, now, view))
	{
		Event	   *event = lfirst(lc);

		if (hold_resolution(set, &event->id, view) != NULL)
			continue;
		if (event->moved.held.bonus != 0)
			ledger_read_lines(set, view, event);
		lapsed = lappend(lapsed, event);
	}
	return lapsed;
}

/* When the first or last hold may end that has not ended at "now" */
static TimestampTz
hold_expiry(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
			TimestampTz now, bool last, RelationView view)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USAGE_EVENTS);
	Datum		keys[2] = {UUIDPGetDatum(user_id), CStringGetTextDatum(metric)};
	RelationScan *scan;
	TimestampTz result = DT_NOEND;
	bool		isnull;

	scan = relation_scan_begin_range(set, INDEX_USAGE_EVENTS_HOLDS, 2, keys,
									 TimestampTzGetDatum(now + 1),
									 TimestampTzGetDatum(DT_NOEND), last, view);
	if (relation_scan_next(scan, slot))
		result = DatumGetTimestampTz(slot_getattr(slot, Anum_usage_events_expires_at, &isnull));
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return result;
}

/*
 * A time before which no hold of a subject and metric ends that has not ended
 * at "now"; DT_NOEND if there is none
 */
TimestampTz
hold_next_expiry(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
				 TimestampTz now, RelationView view)
{
	return hold_expiry(set, user_id, metric, now, false, view);
}

/* A time from which on none of them holds any more; DT_NOEND if there is none */
TimestampTz
hold_last_expiry(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
				 TimestampTz now, RelationView view)
{
	return hold_expiry(set, user_id, metric, now, true, view);
}

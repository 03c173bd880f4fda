/*-------------------------------------------------------------------------
 *
 * bonus.c
 *	  Bonuses: credits that are used after the allowance.
 *
 * Consumers take from bonuses under the lock of the allowance's account, which
 * they hold before they come here.  A bonus row is locked all the same before
 * it is written: the admin's statements, and consumers that meet another
 * account because the plan has just changed, write it too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "bonus.h"

/* A bonus and its row, sorted together */
typedef struct BonusRow
{
	BonusState	state;
	ItemPointerData tid;
} BonusRow;

static int
compare_rows(const void *a, const void *b)
{
	return bonus_compare(&((const BonusRow *) a)->state,
						 &((const BonusRow *) b)->state);
}

/* Read one row; returns false if it cannot be used at "now" */
static bool
read_row(TupleTableSlot *slot, TimestampTz now, BonusRow *row)
{
	BonusState *b = &row->state;
	bool		isnull;
	Datum		datum;

	memset(row, 0, sizeof(*row));
	datum = slot_getattr(slot, Anum_user_bonuses_expires_at, &isnull);
	b->expires_at = isnull ? DECISION_NEVER : DatumGetTimestampTz(datum);
	if (b->expires_at <= now)
		return false;

	b->left = amount_from_datum(slot_getattr(slot, Anum_user_bonuses_amount, &isnull)) -
		amount_from_datum(slot_getattr(slot, Anum_user_bonuses_used_amount, &isnull)) -
		amount_from_datum(slot_getattr(slot, Anum_user_bonuses_held_amount, &isnull)) -
		amount_from_datum(slot_getattr(slot, Anum_user_bonuses_given_amount, &isnull));
	if (b->left <= 0)
		return false;

	b->priority = DatumGetInt32(slot_getattr(slot, Anum_user_bonuses_priority, &isnull));
	b->granted_at = DatumGetTimestampTz(slot_getattr(slot, Anum_user_bonuses_granted_at, &isnull));
	datum = slot_getattr(slot, Anum_user_bonuses_source, &isnull);
	b->paid = strcmp(TextDatumGetCString(datum), "paid") == 0;
	datum = slot_getattr(slot, Anum_user_bonuses_id, &isnull);
	memcpy(b->id, DatumGetUUIDP(datum)->data, UUID_LEN);
	row->tid = slot->tts_tid;
	return true;
}

/* Read the bonuses that can be used at "now", in the order of their use */
void
bonus_read(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
		   TimestampTz now, RelationView view, BonusSet *out)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	RelationScan *scan;
	Datum		keys[2];
	BonusRow   *rows = NULL;
	int			room = 0;

	memset(out, 0, sizeof(*out));
	keys[0] = UUIDPGetDatum(user_id);
	keys[1] = CStringGetTextDatum(metric);
	scan = relation_scan_begin(set, INDEX_USER_BONUSES_AVAILABLE, 2, keys, view);
	while (relation_scan_next(scan, slot))
	{
		if (out->n == room)
		{
			room = room ? room * 2 : 8;
			rows = rows ? repalloc(rows, room * sizeof(BonusRow)) :
				palloc(room * sizeof(BonusRow));
		}
		if (read_row(slot, now, &rows[out->n]))
			out->n++;
		else
		{
			ItemPointerData *tid = palloc(sizeof(ItemPointerData));

			*tid = slot->tts_tid;
			out->expired = lappend(out->expired, tid);
		}
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	if (out->n == 0)
		return;

	qsort(rows, out->n, sizeof(BonusRow), compare_rows);
	out->bonuses = palloc(out->n * sizeof(BonusState));
	out->tids = palloc(out->n * sizeof(ItemPointerData));
	for (int i = 0; i < out->n; i++)
	{
		out->bonuses[i] = rows[i].state;
		out->tids[i] = rows[i].tid;
	}
}

/*
 * Let SERIALIZABLE know that the answer rests on the bonuses; with "taken"
 * false, only on those that the decision takes nothing from.
 */
void
bonus_register(RelationSet *set, const BonusSet *bonuses, bool taken)
{
	TupleTableSlot *slot;
	ListCell   *lc;

	if (bonuses->n == 0 && bonuses->expired == NIL)
		return;
	slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	foreach(lc, bonuses->expired)
	{
		slot->tts_tid = *(ItemPointer) lfirst(lc);
		relation_register(set, TABLE_USER_BONUSES, slot);
	}
	for (int i = 0; i < bonuses->n; i++)
	{
		if (bonuses->bonuses[i].take > 0 && !taken)
			continue;
		slot->tts_tid = bonuses->tids[i];
		relation_register(set, TABLE_USER_BONUSES, slot);
	}
	ExecClearTuple(slot);
}

/*
 * Write what the decision takes from each bonus.  All rows are locked before
 * the first is written; returns false, with nothing written, if another
 * transaction has changed one of them or had to be waited for.
 */
bool
bonus_lock_and_take(RelationSet *set, BonusSet *bonuses)
{
	TupleTableSlot **slots = palloc0(bonuses->n * sizeof(TupleTableSlot *));
	bool		unchanged = true;

	for (int i = 0; i < bonuses->n; i++)
	{
		if (bonuses->bonuses[i].take == 0)
			continue;
		slots[i] = relation_slot(set, TABLE_USER_BONUSES);
		slots[i]->tts_tid = bonuses->tids[i];
		if (relation_lock(set, TABLE_USER_BONUSES, slots[i], true) != ROW_UNCHANGED)
			unchanged = false;
	}
	if (!unchanged)
		return false;

	for (int i = 0; i < bonuses->n; i++)
	{
		Datum		values[Natts_user_bonuses];
		bool		nulls[Natts_user_bonuses];
		Amount		used;

		if (slots[i] == NULL)
			continue;
		slot_getallattrs(slots[i]);
		memcpy(values, slots[i]->tts_values, sizeof(values));
		memcpy(nulls, slots[i]->tts_isnull, sizeof(nulls));
		used = amount_from_datum(values[Anum_user_bonuses_used_amount - 1]) +
			bonuses->bonuses[i].take;
		values[Anum_user_bonuses_used_amount - 1] = amount_get_datum(used);
		relation_update(set, TABLE_USER_BONUSES, slots[i], values, nulls);
	}
	return true;
}

/* Write one allocation line for each bonus that an event took from */
void
bonus_record(RelationSet *set, const BonusSet *bonuses, const pg_uuid_t *event_id)
{
	for (int i = 0; i < bonuses->n; i++)
	{
		Datum		values[Natts_bonus_allocations];
		bool		nulls[Natts_bonus_allocations] = {false};
		const BonusState *b = &bonuses->bonuses[i];

		if (b->take == 0)
			continue;
		values[Anum_bonus_allocations_event_id - 1] = UUIDPGetDatum(event_id);
		values[Anum_bonus_allocations_bonus_id - 1] = PointerGetDatum(b->id);
		values[Anum_bonus_allocations_amount - 1] = amount_get_datum(b->take);
		values[Anum_bonus_allocations_held - 1] = amount_get_datum(0);
		values[Anum_bonus_allocations_ordinal - 1] = Int32GetDatum(i + 1);
		values[Anum_bonus_allocations_expired - 1] = BoolGetDatum(false);
		relation_insert(set, TABLE_BONUS_ALLOCATIONS, values, nulls);
	}
}

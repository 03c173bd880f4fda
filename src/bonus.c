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

static void
read_row(TupleTableSlot *slot, TimestampTz now, BonusState *b, BonusRow *row)
{
	bool		isnull;
	Datum		datum;

	memset(b, 0, sizeof(*b));
	memset(row, 0, sizeof(*row));
	row->tid = slot->tts_tid;
	row->used = amount_from_slot(slot, Anum_user_bonuses_used_amount);
	row->held = amount_from_slot(slot, Anum_user_bonuses_held_amount);
	datum = slot_getattr(slot, Anum_user_bonuses_expires_at, &isnull);
	b->expires_at = isnull ? DECISION_NEVER : DatumGetTimestampTz(datum);
	(void) slot_getattr(slot, Anum_user_bonuses_voided_at, &isnull);
	row->useless = b->expires_at <= now || !isnull;
	if (!row->useless)
		b->left = amount_from_slot(slot, Anum_user_bonuses_amount) - row->used - row->held -
			amount_from_slot(slot, Anum_user_bonuses_given_amount);

	b->priority = DatumGetInt32(slot_getattr(slot, Anum_user_bonuses_priority, &isnull));
	b->granted_at = DatumGetTimestampTz(slot_getattr(slot, Anum_user_bonuses_granted_at, &isnull));
	datum = slot_getattr(slot, Anum_user_bonuses_source, &isnull);
	b->paid = strcmp(TextDatumGetCString(datum), "paid") == 0;
	datum = slot_getattr(slot, Anum_user_bonuses_id, &isnull);
	memcpy(b->id, DatumGetUUIDP(datum)->data, UUID_LEN);
}

static void
make_room(BonusSet *bonuses)
{
	if (bonuses->n == bonuses->room)
	{
		int			room = bonuses->room ? bonuses->room * 2 : 4;

		bonuses->bonuses = bonuses->room ?
			repalloc(bonuses->bonuses, room * sizeof(BonusState)) :
			palloc(room * sizeof(BonusState));
		bonuses->rows = bonuses->room ?
			repalloc(bonuses->rows, room * sizeof(BonusRow)) :
			palloc(room * sizeof(BonusRow));
		bonuses->room = room;
	}
}

/* Add the row in the slot */
static void
append_row(BonusSet *bonuses, TupleTableSlot *slot, TimestampTz now)
{
	make_room(bonuses);
	read_row(slot, now, &bonuses->bonuses[bonuses->n], &bonuses->rows[bonuses->n]);
	bonuses->n++;
}

/* Into the order of use.  Few bonuses, mostly sorted: by insertion. */
void
bonus_sort(BonusSet *bonuses)
{
	for (int i = 1; i < bonuses->n; i++)
	{
		BonusState	state = bonuses->bonuses[i];
		BonusRow	row = bonuses->rows[i];
		int			j = i;

		for (; j > 0 && bonus_compare(&bonuses->bonuses[j - 1], &state) > 0; j--)
		{
			bonuses->bonuses[j] = bonuses->bonuses[j - 1];
			bonuses->rows[j] = bonuses->rows[j - 1];
		}
		bonuses->bonuses[j] = state;
		bonuses->rows[j] = row;
	}
}

/*
 * Read the bonuses that can be used at "now", in the order of their use.
 * Those that are set aside as a whole are among them, with nothing left.
 */
void
bonus_read(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
		   TimestampTz now, RelationView view, BonusSet *out)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	RelationScan *scan;
	Datum		keys[2];

	memset(out, 0, sizeof(*out));
	keys[0] = UUIDPGetDatum(user_id);
	keys[1] = CStringGetTextDatum(metric);
	scan = relation_scan_begin(set, INDEX_USER_BONUSES_AVAILABLE, 2, keys, view);
	while (relation_scan_next(scan, slot))
	{
		append_row(out, slot, now);
		if (out->rows[out->n - 1].useless)
		{
			ItemPointerData *tid = palloc(sizeof(ItemPointerData));

			*tid = slot->tts_tid;
			out->others = lappend(out->others, tid);
			out->n--;
		}
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	bonus_sort(out);
}

/*
 * Read the bonuses that something was taken from, in the order of their use,
 * whether they can be used or not
 */
void
bonus_read_used(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
				TimestampTz now, RelationView view, BonusSet *out)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	Datum		key = UUIDPGetDatum(user_id);
	RelationScan *scan = relation_scan_begin(set, INDEX_USER_BONUSES_USER, 1, &key, view);

	memset(out, 0, sizeof(*out));
	while (relation_scan_next(scan, slot))
	{
		bool		isnull;
		Datum		datum = slot_getattr(slot, Anum_user_bonuses_metric, &isnull);

		if (strcmp(TextDatumGetCString(datum), metric) != 0)
			continue;
		append_row(out, slot, now);
		if (out->rows[out->n - 1].used == 0)
			out->n--;
	}
	relation_scan_end(scan);
	ExecClearTuple(slot);
	bonus_sort(out);
}

/*
 * Have a bonus among those that were read, whatever its state.  Returns its
 * place, or -1 if it does not exist any more.
 */
int
bonus_add(RelationSet *set, const pg_uuid_t *id, TimestampTz now,
		  RelationView view, BonusSet *bonuses)
{
	TupleTableSlot *slot;
	Datum		key = UUIDPGetDatum(id);

	for (int i = 0; i < bonuses->n; i++)
		if (memcmp(bonuses->bonuses[i].id, id->data, UUID_LEN) == 0)
			return i;

	slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	if (!relation_find(set, INDEX_USER_BONUSES_PKEY, 1, &key, view, slot))
		return -1;
	append_row(bonuses, slot, now);
	ExecClearTuple(slot);
	return bonuses->n - 1;
}

/*
 * Add a bonus that has become due, and has no row yet; state->left is what it
 * gives.  The caller sorts.
 */
void
bonus_add_due(BonusSet *bonuses, const BonusState *state, const char *source,
			  const char *reason)
{
	BonusRow   *row;

	make_room(bonuses);
	row = &bonuses->rows[bonuses->n];
	memset(row, 0, sizeof(*row));
	row->due = true;
	row->amount = state->left;
	row->source = source;
	row->reason = reason;
	bonuses->bonuses[bonuses->n++] = *state;
}

/* Is there a bonus that has no row yet? */
bool
bonus_any_due(const BonusSet *bonuses)
{
	for (int i = 0; i < bonuses->n; i++)
		if (bonuses->rows[i].due)
			return true;
	return false;
}

/* Has any reservation set units aside? */
bool
bonus_any_held(const BonusSet *bonuses)
{
	for (int i = 0; i < bonuses->n; i++)
		if (bonuses->rows[i].held > 0)
			return true;
	return false;
}

static bool
is_written(const BonusSet *bonuses, int i)
{
	return bonuses->bonuses[i].take != 0 || bonuses->bonuses[i].hold != 0 ||
		bonuses->rows[i].lapsed != 0;
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

	if (bonuses->n == 0 && bonuses->others == NIL)
		return;
	slot = relation_scratch_slot(set, TABLE_USER_BONUSES);
	foreach(lc, bonuses->others)
	{
		slot->tts_tid = *(ItemPointer) lfirst(lc);
		relation_register(set, TABLE_USER_BONUSES, slot);
	}
	for (int i = 0; i < bonuses->n; i++)
	{
		if (bonuses->rows[i].due || (is_written(bonuses, i) && !taken))
			continue;
		slot->tts_tid = bonuses->rows[i].tid;
		relation_register(set, TABLE_USER_BONUSES, slot);
	}
	ExecClearTuple(slot);
}

/*
 * Lock the bonuses that are to be written; returns false if another
 * transaction has changed one of them or had to be waited for.
 */
bool
bonus_lock(RelationSet *set, BonusSet *bonuses)
{
	TupleTableSlot **slots;
	bool		unchanged = true;

	if (bonuses->n == 0)
		return true;
	slots = bonuses->slots = palloc0(bonuses->n * sizeof(TupleTableSlot *));
	for (int i = 0; i < bonuses->n; i++)
	{
		if (bonuses->rows[i].due || !is_written(bonuses, i))
			continue;
		slots[i] = relation_slot(set, TABLE_USER_BONUSES);
		slots[i]->tts_tid = bonuses->rows[i].tid;
		if (relation_lock(set, TABLE_USER_BONUSES, slots[i], true) != ROW_UNCHANGED)
			unchanged = false;
	}
	return unchanged;
}

/* Make the row of a bonus that has become due */
static void
insert_due(RelationSet *set, const BonusState *b, const BonusRow *row,
		   const pg_uuid_t *user_id, const char *metric)
{
	Datum		values[Natts_user_bonuses] = {0};
	bool		nulls[Natts_user_bonuses] = {false};

	values[Anum_user_bonuses_id - 1] = UUIDPGetDatum((pg_uuid_t *) b->id);
	values[Anum_user_bonuses_user_id - 1] = UUIDPGetDatum(user_id);
	values[Anum_user_bonuses_metric - 1] = CStringGetTextDatum(metric);
	values[Anum_user_bonuses_amount - 1] = amount_get_datum(row->amount);
	values[Anum_user_bonuses_used_amount - 1] = amount_get_datum(b->take);
	values[Anum_user_bonuses_priority - 1] = Int32GetDatum(b->priority);
	values[Anum_user_bonuses_expires_at - 1] = TimestampTzGetDatum(b->expires_at);
	nulls[Anum_user_bonuses_expires_at - 1] = (b->expires_at == DECISION_NEVER);
	values[Anum_user_bonuses_source - 1] = CStringGetTextDatum(row->source);
	values[Anum_user_bonuses_reason - 1] = CStringGetTextDatum(row->reason);
	values[Anum_user_bonuses_granted_at - 1] = TimestampTzGetDatum(b->granted_at);
	nulls[Anum_user_bonuses_available - 1] = true;	/* generated */
	values[Anum_user_bonuses_held_amount - 1] = amount_get_datum(b->hold);
	values[Anum_user_bonuses_given_amount - 1] = amount_get_datum(0);
	nulls[Anum_user_bonuses_voided_at - 1] = true;
	values[Anum_user_bonuses_giftable - 1] = BoolGetDatum(false);
	nulls[Anum_user_bonuses_unit_cost - 1] = true;
	nulls[Anum_user_bonuses_currency - 1] = true;
	nulls[Anum_user_bonuses_transaction_id - 1] = true;
	relation_insert(set, TABLE_USER_BONUSES, values, nulls, true);
}

/*
 * Write what is taken from each bonus and what is set aside of it, and those
 * that have become due.  bonus_lock() returned true.
 */
void
bonus_write(RelationSet *set, const BonusSet *bonuses, const pg_uuid_t *user_id,
			const char *metric)
{
	for (int i = 0; i < bonuses->n; i++)
	{
		Datum		values[Natts_user_bonuses];
		bool		nulls[Natts_user_bonuses];
		const BonusState *b = &bonuses->bonuses[i];
		const BonusRow *row = &bonuses->rows[i];

		if (row->due)
			insert_due(set, b, row, user_id, metric);
		if (bonuses->slots[i] == NULL)
			continue;
		slot_getallattrs(bonuses->slots[i]);
		memcpy(values, bonuses->slots[i]->tts_values, sizeof(values));
		memcpy(nulls, bonuses->slots[i]->tts_isnull, sizeof(nulls));
		values[Anum_user_bonuses_used_amount - 1] = amount_get_datum(row->used + b->take);
		values[Anum_user_bonuses_held_amount - 1] =
			amount_get_datum(row->held + b->hold - row->lapsed);
		relation_update(set, TABLE_USER_BONUSES, bonuses->slots[i], values, nulls);
	}
}

/* The lines of an event that moves what bonuses[].take and .hold tell */
void
bonus_lines(const BonusSet *bonuses, Event *event)
{
	event->nlines = 0;
	for (int i = 0; i < bonuses->n; i++)
	{
		const BonusState *b = &bonuses->bonuses[i];
		EventLine  *line;

		if (b->take == 0 && b->hold == 0)
			continue;
		if (event->nlines == 0)
			event->lines = palloc0(bonuses->n * sizeof(EventLine));
		line = &event->lines[event->nlines++];
		memcpy(line->bonus_id.data, b->id, UUID_LEN);
		line->amount = b->take;
		line->held = b->hold;
		line->ordinal = event->nlines;
		line->expired = bonuses->rows[i].useless && b->take + b->hold < 0;
	}
}

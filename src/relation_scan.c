/*-------------------------------------------------------------------------
 *
 * relation_scan.c
 *	  Reading rows of the extension's tables by index, without SQL.
 *
 * Together with relation.c, which writes them, the only file that knows the
 * table access method.  It knows rows, not what they mean.
 *
 * A scan that has ended is kept for the next one by the same index: a batch
 * makes hundreds of them.  It holds no page meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#define QUOTA_COMPAT_EXECUTOR
#include "compat.h"
#include "relation_set.h"

#define INDEX_MAX_LOOKUP_KEYS	3

/* Which table an index belongs to, and how its columns compare */
static const struct
{
	QuotaTable	table;
	RegProcedure equal[INDEX_MAX_LOOKUP_KEYS];
	RegProcedure ge;			/* of the next column, for ranges */
	RegProcedure le;
}			index_info[INDEX_COUNT] =
{
	[INDEX_SUBSCRIPTIONS_PKEY] = {TABLE_SUBSCRIPTIONS, {F_UUID_EQ}},
	[INDEX_SUBSCRIPTIONS_PARENT] = {TABLE_SUBSCRIPTIONS, {F_UUID_EQ}},
	[INDEX_LIMIT_OVERRIDES_LOOKUP] = {TABLE_LIMIT_OVERRIDES, {F_UUID_EQ, F_TEXTEQ}},
	[INDEX_RECURRING_BONUSES_LOOKUP] = {TABLE_RECURRING_BONUSES, {F_UUID_EQ, F_TEXTEQ}},
	[INDEX_USAGE_TRACKING_QUOTA_LOOKUP] = {TABLE_USAGE_TRACKING, {F_UUID_EQ, F_TEXTEQ, F_TEXTEQ}},
	[INDEX_USAGE_HISTORY_ACCOUNT] = {TABLE_USAGE_HISTORY, {F_UUID_EQ, F_TEXTEQ, F_TEXTEQ},
	F_TIMESTAMPTZ_GE, F_TIMESTAMPTZ_LE},
	[INDEX_USER_BONUSES_PKEY] = {TABLE_USER_BONUSES, {F_UUID_EQ}},
	[INDEX_USER_BONUSES_AVAILABLE] = {TABLE_USER_BONUSES, {F_UUID_EQ, F_TEXTEQ}},
	[INDEX_USER_BONUSES_USER] = {TABLE_USER_BONUSES, {F_UUID_EQ}},
	[INDEX_USAGE_EVENTS_PKEY] = {TABLE_USAGE_EVENTS, {F_UUID_EQ}},
	[INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP] = {TABLE_USAGE_EVENTS, {F_BYTEAEQ}},
	[INDEX_USAGE_EVENTS_REFERS_TO] = {TABLE_USAGE_EVENTS, {F_UUID_EQ}},
	[INDEX_USAGE_EVENTS_HOLDS] = {TABLE_USAGE_EVENTS, {F_UUID_EQ, F_TEXTEQ},
	F_TIMESTAMPTZ_GE, F_TIMESTAMPTZ_LE},
	[INDEX_USAGE_EVENTS_USER] = {TABLE_USAGE_EVENTS, {F_UUID_EQ}, F_UUID_GE, F_UUID_LE},
	[INDEX_BONUS_ALLOCATIONS_PKEY] = {TABLE_BONUS_ALLOCATIONS, {F_UUID_EQ}},
};

struct RelationScan
{
	IndexScanDesc scan;
	RelationSet *set;
	QuotaIndex	number;
	Relation	table;
	Snapshot	filter;			/* if set, only what it sees is returned */
	ScanDirection direction;
};

static TupleTableSlot *
new_slot(RelationSet *set, QuotaTable table)
{
	return table_slot_create(relation_set_table(set, table),
							 &set->estate->es_tupleTable);
}

/*
 * A slot that can hold a row of the table, until relation_slots_release() or
 * relations_end()
 */
TupleTableSlot *
relation_slot(RelationSet *set, QuotaTable table)
{
	MemoryContext old = MemoryContextSwitchTo(set->context);

	if (set->slots_used[table] == list_length(set->slots[table]))
		set->slots[table] = lappend(set->slots[table], new_slot(set, table));
	MemoryContextSwitchTo(old);
	return list_nth(set->slots[table], set->slots_used[table]++);
}

/* Take all slots back that relation_slot() has handed out */
void
relation_slots_release(RelationSet *set)
{
	for (int t = 0; t < TABLE_COUNT; t++)
	{
		while (set->slots_used[t] > 0)
			ExecClearTuple(list_nth(set->slots[t], --set->slots_used[t]));
	}
}

/* One that is for a row at a time: the next who asks for it gets the same */
TupleTableSlot *
relation_scratch_slot(RelationSet *set, QuotaTable table)
{
	if (set->scratch[table] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(set->context);

		set->scratch[table] = new_slot(set, table);
		MemoryContextSwitchTo(old);
	}
	return set->scratch[table];
}

/* The snapshot that decides which version of a row a view shows */
static Snapshot
view_snapshot(RelationSet *set, RelationView view)
{
	if (view == VIEW_CALLER || !IsolationUsesXactSnapshot())
		return GetActiveSnapshot();
	if (set->latest == NULL)
		set->latest = RegisterSnapshot(GetLatestSnapshot());
	return set->latest;
}

/* Bounds, both inclusive, of the index column after the keys */
typedef struct KeyRange
{
	Datum		from;
	Datum		to;
} KeyRange;

static void
end_scan(IndexScanDesc scan)
{
	Relation	index = scan->indexRelation;

	index_endscan(scan);
	index_close(index, NoLock);
}

/* End the scans that were kept */
void
relation_set_end_scans(RelationSet *set)
{
	for (int i = 0; i < INDEX_COUNT; i++)
	{
		if (set->idle_scans[i])
			end_scan(set->idle_scans[i]);
		set->idle_scans[i] = NULL;
	}
}

static RelationScan *
scan_begin(RelationSet *set, QuotaIndex index, int nkeys, const Datum *keys,
		   const KeyRange *range, Snapshot snapshot)
{
	MemoryContext old;
	RelationScan *scan = palloc0(sizeof(RelationScan));
	ScanKeyData skeys[INDEX_MAX_LOOKUP_KEYS + 2];

	for (int i = 0; i < nkeys; i++)
		ScanKeyInit(&skeys[i], i + 1, BTEqualStrategyNumber,
					index_info[index].equal[i], keys[i]);
	if (range)
	{
		AttrNumber	column = nkeys + 1;

		ScanKeyInit(&skeys[nkeys++], column, BTGreaterEqualStrategyNumber,
					index_info[index].ge, range->from);
		ScanKeyInit(&skeys[nkeys++], column, BTLessEqualStrategyNumber,
					index_info[index].le, range->to);
	}

	/* what the index keeps with the scan has to live as long as it */
	old = MemoryContextSwitchTo(set->context);
	scan->set = set;
	scan->number = index;
	scan->direction = ForwardScanDirection;
	scan->table = relation_set_table(set, index_info[index].table);
	scan->scan = set->idle_scans[index];
	set->idle_scans[index] = NULL;
	if (scan->scan && scan->scan->numberOfKeys != nkeys)
	{
		end_scan(scan->scan);
		scan->scan = NULL;
	}
	if (scan->scan)
		scan->scan->xs_snapshot = snapshot;
	else
		scan->scan = compat_index_beginscan(scan->table,
											index_open(catalog_index(index), AccessShareLock),
											snapshot, nkeys);
	index_rescan(scan->scan, skeys, nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
	return scan;
}

static RelationScan *
view_scan_begin(RelationSet *set, QuotaIndex index, int nkeys, const Datum *keys,
				const KeyRange *range, RelationView view)
{
	Snapshot	snapshot = view_snapshot(set, view);
	RelationScan *scan;

	scan = scan_begin(set, index, nkeys, keys, range,
					  IsolationIsSerializable() ? SnapshotAny : snapshot);
	if (IsolationIsSerializable())
		scan->filter = snapshot;
	return scan;
}

/*
 * Begin to read all rows that match the first nkeys columns of an index.
 *
 * SERIALIZABLE registers what is read by index page, and pages are shared by
 * subjects.  So there the index is scanned for all versions of the rows, which
 * is no read to it, and each is then looked at through the snapshot.  What the
 * snapshot sees was in the index before the scan began, and stays as long as
 * the snapshot, so nothing is missed.
 */
RelationScan *
relation_scan_begin(RelationSet *set, QuotaIndex index, int nkeys,
					const Datum *keys, RelationView view)
{
	return view_scan_begin(set, index, nkeys, keys, NULL, view);
}

/*
 * The same, of those rows whose next column (a time, or the id of an event)
 * lies between two values, both included, in its order or backward
 */
RelationScan *
relation_scan_begin_range(RelationSet *set, QuotaIndex index, int nkeys,
						  const Datum *keys, Datum from, Datum to,
						  bool backward, RelationView view)
{
	KeyRange	range = {from, to};
	RelationScan *scan = view_scan_begin(set, index, nkeys, keys, &range, view);

	if (backward)
		scan->direction = BackwardScanDirection;
	return scan;
}

/* The next row of a scan, in the slot; false if there is none */
bool
relation_scan_next(RelationScan *scan, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(scan->set->context);
	bool		found = false;

	while (!found && index_getnext_slot(scan->scan, scan->direction, slot))
		found = scan->filter == NULL ||
			table_tuple_satisfies_snapshot(scan->table, slot, scan->filter);
	MemoryContextSwitchTo(old);
	return found;
}

void
relation_scan_end(RelationScan *scan)
{
	/* one that another scan of the same index has begun within is one too many */
	if (scan->set->idle_scans[scan->number] == NULL)
	{
		/* lets go of its pages */
		index_rescan(scan->scan, NULL, scan->scan->numberOfKeys, NULL, 0);
		scan->set->idle_scans[scan->number] = scan->scan;
	}
	else
		end_scan(scan->scan);
	pfree(scan);
}

/*
 * Find the row with a unique key.  Returns false if there is none.
 *
 * That there is none is not registered for SERIALIZABLE: an absent account is
 * one with all its room, and creating it meets the unique index.
 */
bool
relation_find(RelationSet *set, QuotaIndex index, int nkeys,
			  const Datum *keys, RelationView view, TupleTableSlot *slot)
{
	RelationScan *scan = relation_scan_begin(set, index, nkeys, keys, view);
	bool		found = relation_scan_next(scan, slot);

	relation_scan_end(scan);
	return found;
}

/*
 * Is another transaction, still in progress, inserting a row with a unique
 * key?
 */
bool
relation_being_inserted(RelationSet *set, QuotaIndex index, int nkeys,
						const Datum *keys)
{
	TupleTableSlot *slot = relation_scratch_slot(set, index_info[index].table);
	SnapshotData dirty;
	RelationScan *scan;
	bool		found;

	InitDirtySnapshot(dirty);
	scan = scan_begin(set, index, nkeys, keys, NULL, &dirty);
	found = relation_scan_next(scan, slot) && TransactionIdIsValid(dirty.xmin);
	relation_scan_end(scan);
	ExecClearTuple(slot);
	return found;
}

/* Is a row that VIEW_LATEST returned visible to the caller's snapshot, too? */
bool
relation_visible_to_caller(RelationSet *set, QuotaTable table,
						   TupleTableSlot *slot)
{
	return table_tuple_satisfies_snapshot(relation_set_table(set, table), slot,
										  GetActiveSnapshot());
}

/*
 * Let SERIALIZABLE know that the answer of this call rests on a row, which
 * VIEW_CALLER returned in the slot.  A row that this call goes on to write, in
 * a way that no savepoint can undo, needs it not: whoever changes it at the
 * same time meets that write.
 *
 * The row is fetched by its address, which registers this row alone.  It is
 * the version that the snapshot sees, and no other must be fetched: for one
 * that it does not see the server looks at the transaction that made it, and
 * takes one that it has had to summarize for a concurrent one even if it ended
 * long ago.  Then one transaction that stays open would fail most calls of
 * everybody.
 */
void
relation_register(RelationSet *set, QuotaTable table, TupleTableSlot *slot)
{
	Relation	rel = relation_set_table(set, table);
	ItemPointerData tid = slot->tts_tid;

	ExecClearTuple(slot);
	if (!table_tuple_fetch_row_version(rel, &tid, GetActiveSnapshot(), slot))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("a row of \"%s\" that was visible is gone",
						RelationGetRelationName(rel))));
}

/*
 * Hand every row of a small table, as it is committed now, to a function; with
 * NULL for the function, look only whether there is one.  Returns whether
 * there is a row.  Outside of a call, because the result is cached across
 * calls.
 */
bool
relation_read_all(QuotaTable table, void (*row) (TupleTableSlot *slot, void *arg),
				  void *arg)
{
	Relation	rel = table_open(catalog_table(table), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = false;
	TableScanDesc scan;
	TupleTableSlot *slot;

	relation_set_check_columns(rel, table);
	slot = table_slot_create(rel, NULL);
	/* all versions, as in relation_scan_begin() */
	scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (!table_tuple_satisfies_snapshot(rel, slot, snapshot))
			continue;
		found = true;
		if (row == NULL)
			break;
		row(slot, arg);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);

	/*
	 * The lock would protect nothing that is still of interest, and is out of
	 * the order in which calls lock tables.
	 */
	table_close(rel, AccessShareLock);
	return found;
}

/* Is an index empty, as far as the newest state goes?  Of all subjects. */
bool
relation_index_is_empty(RelationSet *set, QuotaIndex index)
{
	TupleTableSlot *slot = relation_scratch_slot(set, index_info[index].table);
	RelationScan *scan = relation_scan_begin(set, index, 0, NULL, VIEW_LATEST);
	bool		found = relation_scan_next(scan, slot);

	relation_scan_end(scan);
	ExecClearTuple(slot);
	return !found;
}

/* The table that an index belongs to */
QuotaTable
relation_table_of(QuotaIndex index)
{
	return index_info[index].table;
}

/*-------------------------------------------------------------------------
 *
 * relation.c
 *	  Reading, locking and writing rows of the extension's tables without SQL.
 *
 * The only file that knows the table access method.  It knows rows, not what
 * they mean; relation_set.c opens the tables for it.
 *
 * Locking contract
 *
 * - A call holds RowExclusiveLock on the tables it writes (AccessShareLock on
 *   those it reads) until the transaction ends, as the executor would.
 * - A row is written only after relation_lock() has said that it is the one
 *   that was read.  (To update it at once and see whether somebody was faster
 *   is what the table access method offers with "wait" false; heap has an
 *   assertion against it.)
 * - relation_lock() waits for whoever holds the row, and takes a lock that
 *   lets foreign-key checks through (no key column ever changes).  It reports
 *   whether the row is still the one that was read and was free, because then
 *   all that was concluded from it holds.  After a wait it does not, whatever
 *   became of the row: limits may have changed, periods and bonuses ended
 *   meanwhile.  Where the caller's snapshot rules, a row that changed raises
 *   40001, as an UPDATE would.
 * - No read enters the bookkeeping of SERIALIZABLE by itself, or different
 *   users would fail each other's transactions: relation_scan_begin().  The
 *   caller registers the rows that its answer rests on: relation_register().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#define QUOTA_COMPAT_EXECUTOR
#include "compat.h"
#include "guc.h"
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
	Relation	table;
	Relation	index;
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
	MemoryContext old = MemoryContextSwitchTo(set->estate->es_query_cxt);

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
		MemoryContext old = MemoryContextSwitchTo(set->estate->es_query_cxt);

		set->scratch[table] = new_slot(set, table);
		MemoryContextSwitchTo(old);
	}
	return set->scratch[table];
}

/* ---------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------- */

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

static RelationScan *
scan_begin(RelationSet *set, QuotaIndex index, int nkeys, const Datum *keys,
		   const KeyRange *range, Snapshot snapshot)
{
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

	scan->direction = ForwardScanDirection;
	scan->table = relation_set_table(set, index_info[index].table);
	scan->index = index_open(catalog_index(index), AccessShareLock);
	scan->scan = compat_index_beginscan(scan->table, scan->index, snapshot, nkeys);
	index_rescan(scan->scan, skeys, nkeys, NULL, 0);
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
	while (index_getnext_slot(scan->scan, scan->direction, slot))
	{
		if (scan->filter == NULL ||
			table_tuple_satisfies_snapshot(scan->table, slot, scan->filter))
			return true;
	}
	return false;
}

void
relation_scan_end(RelationScan *scan)
{
	index_endscan(scan->scan);
	index_close(scan->index, NoLock);
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

/* ---------------------------------------------------------------------------
 * Locking and writing
 * ------------------------------------------------------------------------- */

static TM_Result
lock_row(RelationSet *set, Relation rel, ItemPointerData tid, TupleTableSlot *slot,
		 LockWaitPolicy policy, bool *changed)
{
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(rel, &tid, GetActiveSnapshot(), slot,
							  set->estate->es_output_cid,
							  LockTupleNoKeyExclusive, policy,
							  guc_caller_snapshot_rules() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
							  &tmfd);
	*changed = (result == TM_Ok && tmfd.traversed);
	return result;
}

/*
 * Lock the row that the slot holds, waiting for transactions that hold it, or,
 * with "wait" false, returning ROW_BUSY.  Afterwards the slot holds the locked
 * version.
 */
RowLock
relation_lock(RelationSet *set, QuotaTable table, TupleTableSlot *slot, bool wait)
{
	Relation	rel = relation_set_table(set, table);
	ItemPointerData tid = slot->tts_tid;
	bool		changed;
	TM_Result	result;

	/* the server does not tell whether it has waited, so ask before */
	result = lock_row(set, rel, tid, slot, LockWaitSkip, &changed);
	if (result == TM_WouldBlock && wait)
	{
		result = lock_row(set, rel, tid, slot, LockWaitBlock, &changed);
		changed = true;
	}
	switch (result)
	{
		case TM_Ok:
			return changed ? ROW_CHANGED : ROW_UNCHANGED;

		case TM_WouldBlock:
			ExecClearTuple(slot);
			return ROW_BUSY;

		case TM_Updated:
		case TM_Deleted:
			if (guc_caller_snapshot_rules())
				relation_set_raise_lost_race(rel);
			ExecClearTuple(slot);
			return ROW_GONE;

		default:

			/*
			 * The row was read by a snapshot that sees all earlier commands,
			 * so neither invisible nor self-modified can happen, unless a
			 * trigger interferes.
			 */
			relation_set_raise_interference(rel);
	}
	return ROW_GONE;			/* keep compiler quiet */
}

/*
 * Replace the row that the slot "old" holds; relation_lock() in this call said
 * that it is unchanged.
 */
void
relation_update(RelationSet *set, QuotaTable table, TupleTableSlot *old,
				const Datum *values, const bool *nulls)
{
	ResultRelInfo *rri = relation_set_result(set, table);
	Relation	rel = rri->ri_RelationDesc;
	TupleTableSlot *slot = relation_set_form_row(set, table, old, values, nulls);
	CompatUpdateIndexes update_indexes;
	LockTupleMode lockmode;
	TM_FailureData tmfd;
	TM_Result	result;

	if (!relation_set_updates_plainly(rel))
	{
		EPQState	epqstate;

		relation_set_open_indexes(rri, table);
		compat_epq_init(&epqstate, set->estate);
		ItemPointerSetInvalid(&slot->tts_tid);
		ExecSimpleRelationUpdate(rri, set->estate, &epqstate, old, slot);
		EvalPlanQualEnd(&epqstate);
		if (!ItemPointerIsValid(&slot->tts_tid))
			relation_set_raise_suppressed(rel);
		return;
	}

	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	if (RelationGetDescr(rel)->constr)
		ExecConstraints(rri, slot, set->estate);
	/* "wait" makes it see that the lock on the row is our own */
	result = table_tuple_update(rel, &old->tts_tid, slot,
								set->estate->es_output_cid,
								set->estate->es_snapshot, InvalidSnapshot,
								true, &tmfd, &lockmode, &update_indexes);
	if (result == TM_SelfModified)
		relation_set_raise_interference(rel);
	if (result != TM_Ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not update a row of \"%s\" (result %d)",
						RelationGetRelationName(rel), (int) result)));

	if (compat_update_needs_indexes(update_indexes))
	{
		relation_set_open_indexes(rri, table);
		list_free(compat_insert_index_tuples(rri, slot, set->estate, true, false,
											 NULL, NIL,
											 compat_update_only_summarizing(update_indexes)));
	}
}

/* Insert a row, with all indexes, constraints and triggers of its table */
void
relation_insert(RelationSet *set, QuotaTable table,
				const Datum *values, const bool *nulls)
{
	ResultRelInfo *rri = relation_set_result(set, table);
	TupleTableSlot *slot = relation_set_form_row(set, table, NULL, values, nulls);

	relation_set_open_indexes(rri, table);
	ItemPointerSetInvalid(&slot->tts_tid);
	ExecSimpleRelationInsert(rri, set->estate, slot);
	if (!ItemPointerIsValid(&slot->tts_tid))
		relation_set_raise_suppressed(rri->ri_RelationDesc);
}

/* Is the row at an address the transaction's own? */
static bool
row_is_own(RelationSet *set, QuotaTable table, ItemPointer tid)
{
	TupleTableSlot *slot = relation_scratch_slot(set, table);
	Datum		xmin;
	bool		isnull;

	if (!table_tuple_fetch_row_version(relation_set_table(set, table), tid,
									   SnapshotAny, slot))
		return false;
	xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);
	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/*
 * Insert a row unless one with its key exists, as ON CONFLICT DO NOTHING does,
 * but in every isolation level without regard to the snapshot: returns false
 * if a row is there, after waiting for the end of the transaction that made it
 * (or raises 40001, where the caller's snapshot rules, unless it is our own: a
 * trigger made it).  The caller calls relations_refresh() before it reads the
 * row.
 */
bool
relation_insert_if_absent(RelationSet *set, QuotaIndex unique,
						  const Datum *values, const bool *nulls)
{
	QuotaTable	table = index_info[unique].table;
	ResultRelInfo *rri = relation_set_result(set, table);
	Relation	rel = rri->ri_RelationDesc;
	EState	   *estate = set->estate;
	TupleTableSlot *slot = relation_set_form_row(set, table, NULL, values, nulls);
	List	   *arbiters = list_make1_oid(catalog_index(unique));
	ItemPointerData conflict;
	bool		inserted = false;

	/* to meet a row is a read for SERIALIZABLE, if by an MVCC snapshot */
	if (!guc_caller_snapshot_rules())
		estate->es_snapshot = SnapshotSelf;

	Assert(table == TABLE_USAGE_TRACKING);
	relation_set_open_indexes(rri, table);
	CheckCmdReplicaIdentity(rel, CMD_INSERT);
	if (rri->ri_TrigDesc && rri->ri_TrigDesc->trig_insert_before_row &&
		!ExecBRInsertTriggers(estate, rri, slot))
		relation_set_raise_suppressed(rel);
	if (RelationGetDescr(rel)->constr &&
		RelationGetDescr(rel)->constr->has_generated_stored)
		ExecComputeStoredGenerated(rri, estate, slot, CMD_INSERT);
	if (RelationGetDescr(rel)->constr)
		ExecConstraints(rri, slot, estate);

	while (!inserted &&
		   compat_check_index_constraints(rri, slot, estate, &conflict, arbiters))
	{
		uint32		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
		bool		lost = false;
		List	   *recheck;

		table_tuple_insert_speculative(rel, slot, estate->es_output_cid, 0,
									   NULL, token);
		recheck = compat_insert_index_tuples(rri, slot, estate, false, true,
											 &lost, arbiters, false);
		table_tuple_complete_speculative(rel, slot, token, !lost);
		SpeculativeInsertionLockRelease(GetCurrentTransactionId());

		if (!lost)
			ExecARInsertTriggers(estate, rri, slot, recheck, NULL);
		list_free(recheck);
		inserted = !lost;
	}
	estate->es_snapshot = GetActiveSnapshot();
	if (!inserted && guc_caller_snapshot_rules() &&
		!row_is_own(set, table, &conflict))
		relation_set_raise_lost_race(rel);
	return inserted;
}

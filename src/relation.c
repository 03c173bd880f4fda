/*-------------------------------------------------------------------------
 *
 * relation.c
 *	  Locking and writing rows of the extension's tables, without SQL.
 *
 * Together with relation_scan.c, which reads them, the only file that knows the
 * table access method.  It knows rows, not what they mean; relation_set.c opens
 * the tables for it.
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

/* Delete the row that the slot holds, which is locked, or the call's own */
void
relation_delete(RelationSet *set, QuotaTable table, TupleTableSlot *slot)
{
	ResultRelInfo *rri = relation_set_result(set, table);
	EPQState	epqstate;

	compat_epq_init(&epqstate, set->estate);
	ExecSimpleRelationDelete(rri, set->estate, &epqstate, slot);
	EvalPlanQualEnd(&epqstate);
}

/* ---------------------------------------------------------------------------
 * Rows of a batch
 * ------------------------------------------------------------------------- */

/* so many rows of a table go into it together */
#define BUFFER_ROWS		100

/* Write the rows of a table that wait for it */
static void
flush_table(RelationSet *set, QuotaTable table)
{
	ResultRelInfo *rri = set->rris[table];
	int			n = set->buffered[table];

	if (n == 0)
		return;
	set->buffered[table] = 0;
	table_multi_insert(rri->ri_RelationDesc, set->buffers[table], n,
					   set->estate->es_output_cid, 0, NULL);
	for (int i = 0; i < n; i++)
	{
		list_free(compat_insert_index_tuples(rri, set->buffers[table][i], set->estate,
											 false, false, NULL, NIL, false));
		ExecClearTuple(set->buffers[table][i]);
		ResetPerTupleExprContext(set->estate);
	}
}

/* Write all rows that wait for it, before anybody reads them */
void
relation_flush(RelationSet *set)
{
	for (int t = TABLE_FIRST_WRITTEN; set->batch && t < TABLE_COUNT; t++)
		flush_table(set, t);
}

/* From here on, rows that are inserted may wait for others */
void
relation_begin_batch(RelationSet *set)
{
	set->batch = true;
}

/*
 * Let a row wait for others.  Its table has no triggers, and nothing else that
 * would have to see it before the next relation_flush().
 */
static void
buffer_row(RelationSet *set, QuotaTable table, ResultRelInfo *rri, TupleTableSlot *row)
{
	Relation	rel = rri->ri_RelationDesc;

	CheckCmdReplicaIdentity(rel, CMD_INSERT);
	if (RelationGetDescr(rel)->constr)
		ExecConstraints(rri, row, set->estate);
	if (set->buffers[table] == NULL)
		set->buffers[table] = MemoryContextAllocZero(set->context,
													 BUFFER_ROWS * sizeof(TupleTableSlot *));
	if (set->buffers[table][set->buffered[table]] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(set->context);

		set->buffers[table][set->buffered[table]] =
			table_slot_create(rel, &set->estate->es_tupleTable);
		MemoryContextSwitchTo(old);
	}
	ExecCopySlot(set->buffers[table][set->buffered[table]++], row);
	if (set->buffered[table] == BUFFER_ROWS)
		flush_table(set, table);
}

/*
 * Insert a row, with all indexes, constraints and triggers of its table.  In a
 * batch it may wait until the next relations_refresh(), unless it must be there
 * "now".
 */
void
relation_insert(RelationSet *set, QuotaTable table,
				const Datum *values, const bool *nulls, bool now)
{
	ResultRelInfo *rri = relation_set_result(set, table);
	TupleTableSlot *slot = relation_set_form_row(set, table, NULL, values, nulls);

	relation_set_open_indexes(rri, table);
	ItemPointerSetInvalid(&slot->tts_tid);
	if (set->batch && !now && relation_set_updates_plainly(rri->ri_RelationDesc) &&
		!rri->ri_RelationDesc->rd_rel->relispartition)
	{
		buffer_row(set, table, rri, slot);
		return;
	}
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
	QuotaTable	table = relation_table_of(unique);
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

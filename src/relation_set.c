/*-------------------------------------------------------------------------
 *
 * relation_set.c
 *	  The tables that one call has opened, and what it needs to write them.
 *
 * A call works in an executor state of its own, which lets triggers and
 * constraints that the DBA added work as they would in a statement.  Knows
 * nothing of rows; relation.c does.
 *
 * Access rights are not checked here: EXECUTE on the function that was called
 * is the permission.  Row triggers that the DBA added run as the caller, as
 * the triggers of any table do: to run them as the owner would hand the
 * owner's rights to whatever the caller's search_path makes of the names in
 * them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "rewrite/rewriteHandler.h"
#include "utils/snapmgr.h"

#define QUOTA_COMPAT_EXECUTOR
#include "compat.h"
#include "relation_set.h"

/*
 * Memory of a call, kept from one call to the next.  Taking it from malloc each
 * time has the C library hand pages back to the system at the end of a call,
 * and fault them in again for the next, which can cost as much as all the rest.
 * Scans of an index take 27 kB each.
 */
#define CALL_MEMORY	((Size) 256 * 1024)

static MemoryContext call_memory = NULL;

/* The nest level of the transaction that uses it; 0 = none does */
static int	call_memory_level = 0;

/*
 * A context for a call.  One that is made by a trigger of another call gets
 * its own.
 */
static MemoryContext
take_memory(void)
{
	if (call_memory_level != 0)
		return AllocSetContextCreate(CurrentMemoryContext, "quota nested call",
									 ALLOCSET_DEFAULT_SIZES);
	if (call_memory == NULL)
		call_memory = compat_arena_create(TopMemoryContext, "quota call", CALL_MEMORY);
	MemoryContextReset(call_memory);
	call_memory_level = GetCurrentTransactionNestLevel();
	return call_memory;
}

static void
give_memory_back(MemoryContext context)
{
	if (context != call_memory)
	{
		MemoryContextDelete(context);
		return;
	}
	MemoryContextReset(context);
	call_memory_level = 0;
}

/*
 * A call that has failed is over when its transaction, or savepoint, has been
 * rolled back: the next one may have its memory.
 */
static void
end_of_transaction(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
		call_memory_level = 0;
}

static void
end_of_savepoint(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
				 void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		call_memory_level >= GetCurrentTransactionNestLevel())
		call_memory_level = 0;
}

/* To be called once, when the library is loaded */
void
relations_init(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_savepoint, NULL);
}

/*
 * Start a call.  A writing call sees what its own transaction did before, by a
 * snapshot of its own; one that only reads uses the caller's active snapshot.
 * The tables named by TABLE_BITs are opened before that snapshot is taken:
 * rows that ALTER TABLE has rewritten are invisible to older ones.
 *
 * The caller switches to relations_context() for whatever need not outlive
 * relations_end().
 */
RelationSet *
relations_begin(bool writing, uint32 tables)
{
	MemoryContext context = take_memory();
	MemoryContext old = MemoryContextSwitchTo(context);
	EState	   *estate = CreateExecutorState();
	RelationSet *set = palloc0(sizeof(RelationSet));

	catalog_refresh();
	set->writing = writing;
	set->estate = estate;
	set->context = context;

	if (writing)
	{
		List	   *range_table = NIL;

		for (int i = 0; i < TABLE_COUNT; i++)
		{
			RangeTblEntry *rte = makeNode(RangeTblEntry);

			rte->rtekind = RTE_RELATION;
			rte->relid = catalog_table(i);
			rte->relkind = RELKIND_RELATION;
			rte->rellockmode = RowExclusiveLock;
			range_table = lappend(range_table, rte);
		}
		compat_init_range_table(estate, range_table);
		for (int i = 0; i < TABLE_COUNT; i++)
			if (tables & TABLE_BIT(i))
				(void) relation_set_table(set, i);
		AfterTriggerBeginQuery();
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		estate->es_output_cid = GetCurrentCommandId(true);
	}
	estate->es_snapshot = GetActiveSnapshot();

	MemoryContextSwitchTo(old);
	return set;
}

static void
drop_latest(RelationSet *set)
{
	if (set->latest)
		UnregisterSnapshot(set->latest);
	set->latest = NULL;
}

/*
 * See what was committed since (in READ COMMITTED, or with VIEW_LATEST) and
 * what this call itself wrote.
 */
void
relations_refresh(RelationSet *set)
{
	Assert(set->writing);
	relation_flush(set);
	catalog_refresh();
	drop_latest(set);
	PopActiveSnapshot();
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	set->estate->es_snapshot = GetActiveSnapshot();
	set->estate->es_output_cid = GetCurrentCommandId(true);
	set->moment++;
}

/* As long as this is the same, what was read is what would be read again */
uint64
relations_moment(RelationSet *set)
{
	return set->moment;
}

/*
 * Close what relation_set_open_indexes() opened.  The executor would release
 * the locks, too, which costs more than keeping them as long as those on the
 * tables.
 */
static void
close_indexes(RelationSet *set)
{
	for (int t = 0; t < TABLE_COUNT; t++)
	{
		ResultRelInfo *rri = set->rris[t];

		if (rri == NULL)
			continue;
		for (int i = 0; i < rri->ri_NumIndices; i++)
			index_close(rri->ri_IndexRelationDescs[i], NoLock);
		rri->ri_NumIndices = 0;
	}
}

/*
 * End a call: fires the AFTER triggers of what was written and releases
 * everything but locks.  After an error the transaction's abort does this.
 */
void
relations_end(RelationSet *set)
{
	EState	   *estate = set->estate;

	if (set->writing)
	{
		relation_flush(set);
		AfterTriggerEndQuery(estate);
	}
	relation_set_end_scans(set);
	drop_latest(set);
	ExecResetTupleTable(estate->es_tupleTable, false);
	if (set->writing)
	{
		close_indexes(set);
		ExecCloseResultRelations(estate);
		PopActiveSnapshot();
	}
	for (int i = 0; i < TABLE_COUNT; i++)
		if (set->rels[i])
			table_close(set->rels[i], NoLock);
	FreeExecutorState(estate);
	give_memory_back(set->context);
}

/* Memory that lives until relations_end() */
MemoryContext
relations_context(RelationSet *set)
{
	return set->context;
}

/* Refuse to work on tables of an older version of the extension */
void
relation_set_check_columns(Relation rel, QuotaTable table)
{
	if (RelationGetDescr(rel)->natts < catalog_natts(table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is older than the library of extension \"quota\"",
						RelationGetRelationName(rel)),
				 errdetail("The table has %d columns, the library knows %d.",
						   RelationGetDescr(rel)->natts, catalog_natts(table)),
				 errhint("Run ALTER EXTENSION quota UPDATE.")));
}

/* Open a table of the call; it stays open until relations_end() */
Relation
relation_set_table(RelationSet *set, QuotaTable table)
{
	if (set->rels[table] == NULL)
	{
		bool		write = set->writing && table >= TABLE_FIRST_WRITTEN;
		Relation	rel = table_open(catalog_table(table),
									 write ? RowExclusiveLock : AccessShareLock);

		relation_set_check_columns(rel, table);
		set->rels[table] = rel;
	}
	return set->rels[table];
}

/* Open a table for writing, with what triggers and constraints need */
ResultRelInfo *
relation_set_result(RelationSet *set, QuotaTable table)
{
	if (set->rris[table] == NULL)
	{
		Relation	rel = relation_set_table(set, table);
		MemoryContext old = MemoryContextSwitchTo(set->context);
		ResultRelInfo *rri = makeNode(ResultRelInfo);

		InitResultRelInfo(rri, rel, table + 1, NULL, 0);
		set->estate->es_opened_result_relations =
			lappend(set->estate->es_opened_result_relations, rri);
		set->new_rows[table] = ExecAllocTableSlot(&set->estate->es_tupleTable,
												  RelationGetDescr(rel), &TTSOpsVirtual);
		set->rris[table] = rri;
		MemoryContextSwitchTo(old);
	}
	return set->rris[table];
}

/*
 * Fill the columns of a new row that the DBA added to a table with their
 * defaults, or null.
 */
static void
set_defaults(RelationSet *set, QuotaTable table, TupleTableSlot *slot)
{
	ExprContext *econtext = GetPerTupleExprContext(set->estate);

	for (int i = catalog_natts(table); i < slot->tts_tupleDescriptor->natts; i++)
	{
		Node	   *expr = NULL;

		slot->tts_isnull[i] = true;
		if (!TupleDescAttr(slot->tts_tupleDescriptor, i)->attisdropped &&
			!TupleDescAttr(slot->tts_tupleDescriptor, i)->attgenerated)
			expr = build_column_default(set->rels[table], i + 1);
		if (expr)
			slot->tts_values[i] = ExecEvalExpr(ExecPrepareExpr((Expr *) expr, set->estate),
											   econtext, &slot->tts_isnull[i]);
	}
}

/*
 * Fill the table's slot for new rows.  Columns that the library does not know,
 * because the DBA added them, keep the old row's values, or get their default.
 */
TupleTableSlot *
relation_set_form_row(RelationSet *set, QuotaTable table, TupleTableSlot *old,
					  const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot = set->new_rows[table];
	int			known = catalog_natts(table);
	int			natts = slot->tts_tupleDescriptor->natts;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, known * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, known * sizeof(bool));
	if (natts > known && old)
	{
		slot_getallattrs(old);
		memcpy(slot->tts_values + known, old->tts_values + known,
			   (natts - known) * sizeof(Datum));
		memcpy(slot->tts_isnull + known, old->tts_isnull + known,
			   (natts - known) * sizeof(bool));
	}
	else if (natts > known)
		set_defaults(set, table, slot);
	return ExecStoreVirtualTuple(slot);
}

/* A row that is not written must not count as written: fail closed */
void
relation_set_raise_suppressed(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("a trigger on \"%s\" suppressed a row of the extension",
					RelationGetRelationName(rel)),
			 errhint("BEFORE triggers on the tables of quota must return a row.")));
}

/* A trigger wrote a row between our reading and our writing it */
void
relation_set_raise_interference(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("a trigger changed a row of \"%s\" that the call was about to write",
					RelationGetRelationName(rel)),
			 errhint("Triggers on the tables of quota must not call it for the same subject and metric.")));
}

/* Another transaction was faster, and the caller's snapshot rules */
void
relation_set_raise_lost_race(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update"),
			 errdetail("Another transaction changed a row of \"%s\" after this transaction's snapshot was taken.",
					   RelationGetRelationName(rel)),
			 errhint("Retry the transaction, or set quota.isolation to \"latest\".")));
}

/* Does an update of the table need nothing but the row and its indexes? */
bool
relation_set_updates_plainly(Relation rel)
{
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	return rel->trigdesc == NULL &&
		(constr == NULL || (constr->num_check == 0 && !constr->has_generated_stored));
}

/* Accounts may be inserted speculatively, which needs more of the indexes */
void
relation_set_open_indexes(ResultRelInfo *rri, QuotaTable table)
{
	MemoryContext old;

	if (rri->ri_IndexRelationDescs != NULL)
		return;
	/* they live as long as the call, whatever the request's memory does */
	old = MemoryContextSwitchTo(GetMemoryChunkContext(rri));
	ExecOpenIndices(rri, table == TABLE_USAGE_TRACKING);

	/*
	 * The executor would plan the predicates of partial indexes again before
	 * it compiles them.  They come planned from the relation cache, and
	 * planning costs more than all the rest of such an index.
	 */
	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		IndexInfo  *info = rri->ri_IndexRelationInfo[i];

		if (info->ii_Predicate != NIL && info->ii_PredicateState == NULL)
			info->ii_PredicateState = ExecInitQual(info->ii_Predicate, NULL);
	}
	MemoryContextSwitchTo(old);
}


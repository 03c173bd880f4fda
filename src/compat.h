/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  The only place that knows server versions.
 *
 * Each wrapper takes the newest signature's meaning and names the version that
 * changed it.  Included after the core headers that it wraps; those that only
 * some versions need it includes itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_COMPAT_H
#define QUOTA_COMPAT_H

#include "utils/memutils.h"

#if PG_VERSION_NUM < 140000
#error "quota needs PostgreSQL 14 or newer"
#endif

/* 16: what a varlena is made of is no longer in postgres.h */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 15: reserving a prefix also rejects unknown settings that are set later */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

/* 16: what a check hook hands to its assign hook lives in a memory context */
#if PG_VERSION_NUM < 160000
#define guc_malloc(elevel, size) malloc(size)
#define guc_free(ptr) free(ptr)
#endif

/*
 * 15: a generation context keeps its first block over a reset, and cuts chunks
 * of any size from it; before, only a set does that, with chunks up to 8 kB
 */
static inline MemoryContext
compat_arena_create(MemoryContext parent, const char *name, Size size)
{
#if PG_VERSION_NUM >= 150000
	return GenerationContextCreate(parent, name, size, size, ALLOCSET_DEFAULT_MAXSIZE);
#else
	return AllocSetContextCreateInternal(parent, name, size, size, ALLOCSET_DEFAULT_MAXSIZE);
#endif
}

/* 16: permissions of range table entries moved into a list of their own;
 * 18: ExecInitRangeTable() learnt which entries are prunable */
#ifdef QUOTA_COMPAT_EXECUTOR
#if PG_VERSION_NUM >= 160000
#include "parser/parse_relation.h"
#endif
static inline void
compat_init_range_table(EState *estate, List *range_table)
{
#if PG_VERSION_NUM >= 160000
	List	   *perminfos = NIL;
	ListCell   *lc;

	foreach(lc, range_table)
		addRTEPermissionInfo(&perminfos, lfirst_node(RangeTblEntry, lc));
#endif
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, range_table, perminfos,
					   bms_add_range(NULL, 1, list_length(range_table)));
#elif PG_VERSION_NUM >= 160000
	ExecInitRangeTable(estate, range_table, perminfos);
#else
	ExecInitRangeTable(estate, range_table);
#endif
}

/* 16: EvalPlanQualInit() takes the result relations */
static inline void
compat_epq_init(EPQState *epqstate, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epqstate, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epqstate, estate, NULL, NIL, -1);
#endif
}

/* 16: ExecInsertIndexTuples() can be asked for summarizing indexes only */
static inline List *
compat_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot,
						   EState *estate, bool update, bool no_dup_err,
						   bool *spec_conflict, List *arbiters,
						   bool only_summarizing)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_err,
								 spec_conflict, arbiters, only_summarizing);
#else
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_err,
								 spec_conflict, arbiters);
#endif
}

/* 18: ExecCheckIndexConstraints() takes the tuple to ignore */
static inline bool
compat_check_index_constraints(ResultRelInfo *rri, TupleTableSlot *slot,
							   EState *estate, ItemPointer conflict,
							   List *arbiters)
{
#if PG_VERSION_NUM >= 180000
	ItemPointerData invalid;

	ItemPointerSetInvalid(&invalid);
	return ExecCheckIndexConstraints(rri, slot, estate, conflict, &invalid,
									 arbiters);
#else
	return ExecCheckIndexConstraints(rri, slot, estate, conflict, arbiters);
#endif
}

/* 16: an update tells which indexes need new entries, not only whether */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes CompatUpdateIndexes;
#define compat_update_needs_indexes(u)		((u) != TU_None)
#define compat_update_only_summarizing(u)	((u) == TU_Summarizing)
#else
typedef bool CompatUpdateIndexes;
#define compat_update_needs_indexes(u)		(u)
#define compat_update_only_summarizing(u)	false
#endif

/* 18: index_beginscan() takes room for instrumentation */
static inline IndexScanDesc
compat_index_beginscan(Relation heap, Relation index, Snapshot snapshot,
					   int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}
#endif							/* QUOTA_COMPAT_EXECUTOR */

/* 15: a helper sets up a function that returns a materialized set */
#ifdef QUOTA_COMPAT_SRF
static inline void
compat_init_materialized_srf(FunctionCallInfo fcinfo)
{
#if PG_VERSION_NUM >= 150000
	InitMaterializedSRF(fcinfo, 0);
#else
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old;
	TupleDesc	desc;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		!(rsinfo->allowedModes & SFRM_Materialize))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = tuplestore_begin_heap(true, false, work_mem);
	rsinfo->setDesc = desc;
	MemoryContextSwitchTo(old);
#endif
}
#endif							/* QUOTA_COMPAT_SRF */

/* 16: DecodeDateTime() reports details of an error */
#ifdef QUOTA_COMPAT_DATETIME
static inline int
compat_decode_datetime(char **field, int *ftype, int nf, int *dtype,
					   struct pg_tm *tm, fsec_t *fsec, int *tz)
{
#if PG_VERSION_NUM >= 160000
	DateTimeErrorExtra extra;

	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tz, &extra);
#else
	return DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tz);
#endif
}
#endif							/* QUOTA_COMPAT_DATETIME */

#endif							/* QUOTA_COMPAT_H */

/*-------------------------------------------------------------------------
 *
 * relation_set.h
 *	  The tables that one call has opened; for relation.c only.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_RELATION_SET_H
#define QUOTA_RELATION_SET_H

#include "access/genam.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

#include "relation.h"

/* The tables that one call has opened, and what it needs to write them */
struct RelationSet
{
	bool		writing;
	MemoryContext context;		/* owns all of the call, this set included */
	EState	   *estate;			/* owns the slots and the triggers */
	Relation	rels[TABLE_COUNT];
	ResultRelInfo *rris[TABLE_COUNT];
	TupleTableSlot *new_rows[TABLE_COUNT];
	TupleTableSlot *scratch[TABLE_COUNT];
	List	   *slots[TABLE_COUNT]; /* that relation_slot() has handed out */
	int			slots_used[TABLE_COUNT];
	Snapshot	latest;			/* registered, or NULL */
	IndexScanDesc idle_scans[INDEX_COUNT];	/* that have ended, for the next */
	uint64		moment;			/* counts the snapshots */
	bool		batch;			/* rows may wait for others */
	TupleTableSlot **buffers[TABLE_COUNT];	/* those that wait */
	int			buffered[TABLE_COUNT];
};

extern QuotaTable relation_table_of(QuotaIndex index);
extern void relation_set_end_scans(RelationSet *set);
extern Relation relation_set_table(RelationSet *set, QuotaTable table);
extern ResultRelInfo *relation_set_result(RelationSet *set, QuotaTable table);
extern void relation_set_open_indexes(ResultRelInfo *rri, QuotaTable table);
extern TupleTableSlot *relation_set_form_row(RelationSet *set, QuotaTable table,
											 TupleTableSlot *old,
											 const Datum *values,
											 const bool *nulls);
extern void relation_set_raise_suppressed(Relation rel);
extern void relation_set_raise_interference(Relation rel);
extern void relation_set_raise_lost_race(Relation rel);
extern bool relation_set_updates_plainly(Relation rel);
extern void relation_set_check_columns(Relation rel, QuotaTable table);

#endif							/* QUOTA_RELATION_SET_H */

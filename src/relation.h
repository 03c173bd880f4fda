/*-------------------------------------------------------------------------
 *
 * relation.h
 *	  Reading, locking and writing rows of the extension's tables.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_RELATION_H
#define QUOTA_RELATION_H

#include "executor/tuptable.h"

#include "catalog.h"

/* Which version of a row a read returns */
typedef enum RelationView
{
	VIEW_CALLER,				/* what the caller's snapshot sees; see
								 * relation_register() */
	VIEW_LATEST					/* what is committed now, and own changes */
} RelationView;

typedef enum RowLock
{
	ROW_UNCHANGED,				/* locked; the slot still holds the row */
	ROW_CHANGED,				/* locked; another transaction changed the row
								 * since it was read, or had to be waited for:
								 * read everything again */
	ROW_GONE,					/* deleted; nothing is locked */
	ROW_BUSY					/* another transaction holds it; not locked */
} RowLock;

typedef struct RelationSet RelationSet;
typedef struct RelationScan RelationScan;

/* for relations_begin() */
#define TABLE_BIT(table)	(1U << (table))

extern void relations_init(void);
extern RelationSet *relations_begin(bool writing, uint32 tables);
extern void relations_refresh(RelationSet *set);
extern void relations_end(RelationSet *set);
extern uint64 relations_moment(RelationSet *set);
extern MemoryContext relations_context(RelationSet *set);

extern TupleTableSlot *relation_slot(RelationSet *set, QuotaTable table);
extern void relation_slots_release(RelationSet *set);
extern TupleTableSlot *relation_scratch_slot(RelationSet *set, QuotaTable table);
extern bool relation_find(RelationSet *set, QuotaIndex index, int nkeys,
						  const Datum *keys, RelationView view,
						  TupleTableSlot *slot);
extern RelationScan *relation_scan_begin(RelationSet *set, QuotaIndex index,
										 int nkeys, const Datum *keys,
										 RelationView view);
extern RelationScan *relation_scan_begin_range(RelationSet *set, QuotaIndex index,
											   int nkeys, const Datum *keys,
											   Datum from, Datum to,
											   bool backward, RelationView view);
extern bool relation_scan_next(RelationScan *scan, TupleTableSlot *slot);
extern void relation_scan_end(RelationScan *scan);
extern bool relation_index_is_empty(RelationSet *set, QuotaIndex index);
extern bool relation_being_inserted(RelationSet *set, QuotaIndex index,
									int nkeys, const Datum *keys);
extern bool relation_visible_to_caller(RelationSet *set, QuotaTable table,
									   TupleTableSlot *slot);
extern void relation_register(RelationSet *set, QuotaTable table,
							  TupleTableSlot *slot);
extern bool relation_read_all(QuotaTable table,
							  void (*row) (TupleTableSlot *slot, void *arg),
							  void *arg);

extern RowLock relation_lock(RelationSet *set, QuotaTable table,
							 TupleTableSlot *slot, bool wait);
extern void relation_update(RelationSet *set, QuotaTable table,
							TupleTableSlot *old, const Datum *values,
							const bool *nulls);
extern void relation_insert(RelationSet *set, QuotaTable table,
							const Datum *values, const bool *nulls, bool now);
extern void relation_delete(RelationSet *set, QuotaTable table,
							TupleTableSlot *slot);
extern void relation_begin_batch(RelationSet *set);
extern void relation_flush(RelationSet *set);
extern bool relation_insert_if_absent(RelationSet *set, QuotaIndex unique,
									  const Datum *values, const bool *nulls);

#endif							/* QUOTA_RELATION_H */

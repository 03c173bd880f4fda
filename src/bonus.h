/*-------------------------------------------------------------------------
 *
 * bonus.h
 *	  Bonuses: credits that are used after the allowance.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_BONUS_H
#define QUOTA_BONUS_H

#include "utils/uuid.h"

#include "decision.h"
#include "ledger.h"
#include "relation.h"

/* What else is known of a bonus, beside what the decision needs */
typedef struct BonusRow
{
	ItemPointerData tid;
	Amount		used;			/* units taken so far */
	Amount		held;			/* units set aside so far */
	Amount		lapsed;			/* of them, by holds that have expired */
	bool		useless;		/* expired or void: nothing can be taken */
	bool		due;			/* there is no row yet */
	Amount		amount;			/* if due: what is given */
	const char *source;
	const char *reason;
} BonusRow;

/*
 * Bonuses of a subject and metric: bonuses[] is what the decision sees, rows[]
 * the same bonuses' rows
 */
typedef struct BonusSet
{
	BonusState *bonuses;
	BonusRow   *rows;
	int			n;
	int			room;			/* of both arrays */
	TupleTableSlot **slots;		/* those that are locked */
	List	   *others;			/* rows that were found, and are of no use now */
} BonusSet;

extern void bonus_read(RelationSet *set, const pg_uuid_t *user_id,
					   const char *metric, TimestampTz now,
					   RelationView view, BonusSet *out);
extern void bonus_read_used(RelationSet *set, const pg_uuid_t *user_id,
							const char *metric, TimestampTz now,
							RelationView view, BonusSet *out);
extern int	bonus_add(RelationSet *set, const pg_uuid_t *id, TimestampTz now,
					  RelationView view, BonusSet *bonuses);
extern void bonus_add_due(BonusSet *bonuses, const BonusState *state,
						  const char *source, const char *reason);
extern void bonus_sort(BonusSet *bonuses);
extern bool bonus_any_due(const BonusSet *bonuses);
extern bool bonus_any_held(const BonusSet *bonuses);
extern void bonus_register(RelationSet *set, const BonusSet *bonuses, bool taken);
extern bool bonus_lock(RelationSet *set, BonusSet *bonuses);
extern void bonus_write(RelationSet *set, const BonusSet *bonuses,
						const pg_uuid_t *user_id, const char *metric);
extern void bonus_lines(const BonusSet *bonuses, Event *event);

#endif							/* QUOTA_BONUS_H */

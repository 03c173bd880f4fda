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
#include "relation.h"

/* The usable bonuses of a subject and metric, in the order of their use */
typedef struct BonusSet
{
	BonusState *bonuses;
	ItemPointerData *tids;		/* row of each */
	int			n;
	List	   *expired;		/* rows that were found, and are of no use now */
} BonusSet;

extern void bonus_read(RelationSet *set, const pg_uuid_t *user_id,
					   const char *metric, TimestampTz now,
					   RelationView view, BonusSet *out);
extern void bonus_register(RelationSet *set, const BonusSet *bonuses, bool taken);
extern bool bonus_lock_and_take(RelationSet *set, BonusSet *bonuses);
extern void bonus_record(RelationSet *set, const BonusSet *bonuses,
						 const pg_uuid_t *event_id);

#endif							/* QUOTA_BONUS_H */

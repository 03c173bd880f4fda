/*-------------------------------------------------------------------------
 *
 * hold.h
 *	  Holds: what reservations have set aside.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_HOLD_H
#define QUOTA_HOLD_H

#include "ledger.h"

extern Event *hold_find_resolution(List *referring);
extern Event *hold_resolution(RelationSet *set, const pg_uuid_t *reserve_id,
							  RelationView view);
extern List *hold_find_lapsed(RelationSet *set, const pg_uuid_t *user_id,
							  const char *metric, TimestampTz from,
							  TimestampTz now, RelationView view);
extern TimestampTz hold_next_expiry(RelationSet *set, const pg_uuid_t *user_id,
									const char *metric, TimestampTz now,
									RelationView view);
extern TimestampTz hold_last_expiry(RelationSet *set, const pg_uuid_t *user_id,
									const char *metric, TimestampTz now,
									RelationView view);

#endif							/* QUOTA_HOLD_H */

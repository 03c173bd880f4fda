/*-------------------------------------------------------------------------
 *
 * audit.h
 *	  The audit log: one row for each decision.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_AUDIT_H
#define QUOTA_AUDIT_H

#include "outcome.h"
#include "relation.h"

extern void audit_insert(RelationSet *set, const pg_uuid_t *user_id,
						 const char *action, Amount attempted,
						 const Outcome *outcome, bool waited,
						 TimestampTz at);

#endif							/* QUOTA_AUDIT_H */

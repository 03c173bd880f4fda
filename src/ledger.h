/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  The ledger: one event for each request that moved quota.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_LEDGER_H
#define QUOTA_LEDGER_H

#include "limit.h"
#include "outcome.h"
#include "request.h"

#define KEY_HASH_LEN	32

typedef struct KeyHash
{
	int32		vl_len_;		/* a bytea */
	uint8		hash[KEY_HASH_LEN];
} KeyHash;

extern void ledger_hash_key(const pg_uuid_t *user_id, const char *metric,
							const text *key, KeyHash *out);
extern bool ledger_find_key(RelationSet *set, const KeyHash *key,
							Amount *amount, Outcome *outcome);
extern void ledger_insert(RelationSet *set, const Request *request,
						  const LimitSet *limits, const KeyHash *key,
						  Outcome *outcome, TimestampTz at);

#endif							/* QUOTA_LEDGER_H */

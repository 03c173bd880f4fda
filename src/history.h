/*-------------------------------------------------------------------------
 *
 * history.h
 *	  Closed periods of accounts.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_HISTORY_H
#define QUOTA_HISTORY_H

#include "account.h"

extern AccountLock history_lock(RelationSet *set, Account *account);
extern void history_insert(RelationSet *set, const Account *account,
						   TimestampTz closed_at);
extern void history_write(RelationSet *set, const Account *account);

#endif							/* QUOTA_HISTORY_H */

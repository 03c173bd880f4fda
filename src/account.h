/*-------------------------------------------------------------------------
 *
 * account.h
 *	  Accounts: what a subject has used of a metric in the current period.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_ACCOUNT_H
#define QUOTA_ACCOUNT_H

#include "decision.h"
#include "limit.h"

/* The counters of one period */
typedef struct AccountPeriod
{
	TimestampTz start;
	TimestampTz end;			/* DT_NOEND: never ends */
	Amount		used;
	Amount		bonus_used;
	Amount		overage;
	Money		cost;			/* of the overage */
	Amount		held;			/* by reservations that were made in it */
	Money		held_cost;
} AccountPeriod;

typedef struct Account
{
	const LimitSet *limits;
	const QuotaLimit *limit;
	TupleTableSlot *slot;		/* the row that was read, if any */
	bool		exists;
	bool		waited;			/* account_lock() met another call */
	bool		locked;			/* account_lock() got it */
	bool		left_out;		/* of what moves: never counted these units */
	bool		closing;		/* "closed" is to go to the history */
	AccountPeriod closed;
	AccountPeriod current;		/* as of the time of the decision */
	bool		changed;		/* "current" is to be written */
	List	   *past;			/* PastPeriod: those that a request is about */
	bool		has_anchor;
	TimestampTz anchor;			/* of a first_use limit */
	TimestampTz holds_expire_at;	/* no hold ends before; DT_NOEND = none */
	RateState  *rate_state;		/* of a sliding or gcra limit, else NULL */
	RateWindow	rate;
} Account;

/* A period that was closed earlier, in its row of the history */
typedef struct PastPeriod
{
	TupleTableSlot *slot;
	AccountPeriod period;
	bool		changed;
} PastPeriod;

typedef enum AccountLock
{
	ACCOUNT_UNCHANGED,			/* locked, and as it was read */
	ACCOUNT_CHANGED,			/* locked; another transaction was there: read
								 * everything again */
	ACCOUNT_CREATED,			/* new and locked: read it to write it */
	ACCOUNT_LOST,				/* not locked: another transaction created or
								 * deleted it: read it again */
	ACCOUNT_BUSY				/* not locked: another transaction holds it */
} AccountLock;

extern void account_read(RelationSet *set, const LimitSet *limits,
						 const QuotaLimit *limit, RelationView view, Account *account);
extern List *account_windows(RelationSet *set, const LimitSet *limits,
							 RelationView view);
extern TimestampTz account_holds_expire_at(RelationSet *set, const LimitSet *limits,
										   RelationView view);
extern void account_register(RelationSet *set, const Account *account);
extern void account_roll(Account *account, TimestampTz now);
extern AccountPeriod *account_period_at(RelationSet *set, Account *account,
										RelationView view, TimestampTz at);
extern void account_parts(const AccountPeriod *p, Parts *parts);
extern void account_state(const Account *account, const AccountPeriod *p,
						  TimestampTz now, WindowState *state);
extern TimestampTz account_resets_at(const Account *account, TimestampTz now);
extern void account_move(Account *account, AccountPeriod *p, bool allowance,
						 const Movement *moved);
extern void account_move_rate(Account *account, Amount amount, Amount whole,
							  TimestampTz when, TimestampTz now);
extern bool account_period_before(const Account *account, AccountPeriod *p);
extern void account_end_period(Account *account, TimestampTz now);
/* account_rate.c */
extern void account_begin_rate(Account *account);
extern void account_read_rate(Account *account);
extern void account_form_rate(const Account *account, Datum *values, bool *nulls);

extern AccountLock account_lock(RelationSet *set, Account *account, bool wait);
extern void account_delete_unused(RelationSet *set, const pg_uuid_t *user_id,
								  const char *metric, const char *period);
extern void account_write(RelationSet *set, Account *account, TimestampTz now);

#endif							/* QUOTA_ACCOUNT_H */

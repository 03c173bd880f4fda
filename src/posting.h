/*-------------------------------------------------------------------------
 *
 * posting.h
 *	  One request on its way through the engine; shared by the files of the
 *	  engine: post.c, charges.c, movement.c, settlement.c, lookahead.c, write.c,
 *	  answer.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_POSTING_H
#define QUOTA_POSTING_H

#include "charge.h"
#include "request.h"

/* The accounts that a call has locked */
typedef struct HeldAccounts
{
	struct HTAB *hashes;		/* of their names */
	struct AccountName *greatest;	/* the last of them in order */
	bool		of_batch;		/* more requests follow */
} HeldAccounts;

/* What became of a request in movement.c */
typedef enum Verdict
{
	VERDICT_GRANTED,			/* "moved" of each charge is to be written */
	VERDICT_DENIED,				/* the decisions tell why */
	VERDICT_REPLAY				/* "outcomes" have been filled in already */
} Verdict;

/* One call of post(), over all its tries */
typedef struct Posting
{
	const Request *request;
	RelationSet *set;
	RelationView view;			/* of accounts, bonuses and events */
	char	  **metrics;		/* of the items, aliases resolved */
	KeyHash    *keys;			/* of the items, where they have one */
	Outcome    *outcomes;		/* one for each item, or one */

	/* of the present try */
	TimestampTz now;
	Charge	   *charges;		/* in the order of locking */
	int			ncharges;
	Event	   *event;			/* of a request of an event: the one it names */
	List	   *referring;		/* Event: those that refer to it */
	DecisionReason reason;		/* of a denial that no charge has decided */
	bool		has_shortfall;
	Amount		shortfall;

	/* of all tries */
	HeldAccounts *held;			/* of the whole call */
	List	  **created;		/* if set: accounts that were created go here */
	bool		waited;			/* met another call on the same account */
	LimitVersion limits_version;	/* before the snapshot was taken */
	int			tries;			/* that were in vain */
} Posting;

/* charges.c */
extern void charges_find(Posting *posting);
extern Charge *charges_main(const Posting *posting, int item);
extern void charges_raise_not_refundable(const pg_uuid_t *id, const char *detail,
										 const char *hint);

/* movement.c */
extern Verdict movement_decide(Posting *posting);
extern void movement_give_back(Posting *posting, Charge *charge,
							   const AccountPeriod *p, Amount amount);
extern bool movement_is_gauge(const Charge *charge);

/* settlement.c */
extern Verdict settlement_repay(Posting *posting);
extern Verdict settlement_resolve(Posting *posting);
extern Verdict settlement_refund(Posting *posting);

/* lookahead.c */
extern int64 lookahead_retry_after(Posting *posting, int item);

/* write.c */
extern bool posting_lock_charge(Posting *posting, const Charge *charge, bool *unchanged);
extern void posting_delete_unused(RelationSet *set, List *created);
extern void posting_remember_held(Posting *posting);
extern bool posting_write(Posting *posting);
extern void posting_record(Posting *posting);

/* answer.c */
extern bool answer_again(Posting *posting);
extern void answer_grant(Posting *posting, int item, bool after, Outcome *outcome);
extern void answer(Posting *posting, Verdict verdict);
extern void answer_audit(Posting *posting);

#endif							/* QUOTA_POSTING_H */

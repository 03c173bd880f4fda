/*-------------------------------------------------------------------------
 *
 * posting.h
 *	  One request on its way through the engine; for post.c and movement.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_POSTING_H
#define QUOTA_POSTING_H

#include "charge.h"
#include "request.h"

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
	DecisionReason reason;		/* of a denial that no charge has decided */
	bool		has_shortfall;
	Amount		shortfall;

	/* of all tries */
	List	   *held;			/* names of the accounts that are locked */
	bool		waited;			/* met another call on the same account */
	LimitVersion limits_version;	/* before the snapshot was taken */
	int			tries;			/* that were in vain */
} Posting;

extern void movement_find_charges(Posting *posting);
extern Verdict movement_decide(Posting *posting);
extern Charge *movement_main(const Posting *posting, int item);

#endif							/* QUOTA_POSTING_H */

/*-------------------------------------------------------------------------
 *
 * post.h
 *	  The engine: decides a request and records it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_POST_H
#define QUOTA_POST_H

#include "account.h"
#include "bonus.h"
#include "outcome.h"
#include "request.h"

/*
 * What one request charges: a subject's accounts of a metric, the bonuses that
 * extend one of them, and what was decided on them.
 */
typedef struct Charge
{
	LimitSet	limits;
	Account    *accounts;		/* one for each limit, in the same order */
	WindowState *states;
	BonusSet	bonuses;
	TimestampTz now;			/* time of the decision */
	Decision	decision;
} Charge;

extern void post(const Request *request, Outcome *outcome);
extern void charge_read_as_of(RelationSet *set, const pg_uuid_t *user_id,
							  const char *metric, RelationView view,
							  TimestampTz at, Charge *charge);
extern void charge_decide(RelationSet *set, Charge *charge, Amount amount,
						  RelationView view);
extern void charge_register(RelationSet *set, const Charge *charge, bool writes);

#endif							/* QUOTA_POST_H */

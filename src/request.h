/*-------------------------------------------------------------------------
 *
 * request.h
 *	  What a caller asks of the engine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_REQUEST_H
#define QUOTA_REQUEST_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#include "amount.h"

/* metadata of an event may be this large, as jsonb */
#define REQUEST_MAX_METADATA	(64 * 1024)

typedef enum RequestKind
{
	/* of items, which are charged to a subject and its parents */
	REQUEST_CONSUME,			/* negative items give back what a gauge has */
	REQUEST_RESERVE,
	REQUEST_SET_GAUGE,			/* to the amount of the item */

	/* of one item, which concerns the subject alone */
	REQUEST_ADJUST,				/* the allowance's usage, by any amount */
	REQUEST_RESET,				/* end the current periods */
	REQUEST_TIDY,				/* write what is due: periods, holds */
	REQUEST_REPAY,				/* overage, from bonuses */

	/* of an event */
	REQUEST_SETTLE,
	REQUEST_CANCEL,
	REQUEST_REFUND
} RequestKind;

typedef struct RequestItem
{
	pg_uuid_t	user_id;
	char	   *metric;			/* as the caller named it */
	Amount		amount;
	text	   *key;			/* idempotency key, or NULL */
	const struct Subscription *subscription;	/* if it was read, else NULL */
} RequestItem;

typedef struct Request
{
	RequestKind kind;
	bool		dry_run;		/* decide, but write nothing */
	bool		up_to;			/* less than the amount will do */
	RequestItem *items;			/* all or none of them are granted */
	int			nitems;
	Datum		metadata;		/* jsonb object, or 0 */
	int64		ttl;			/* REQUEST_RESERVE: microseconds */
	pg_uuid_t	event_id;		/* of a request of an event */
	bool		has_amount;		/* REQUEST_SETTLE, _REFUND: else all of it */
	Amount		amount;
} Request;

/* Requests of items, each one item for one subject, are what most calls make */
static inline bool
request_is_of_event(const Request *request)
{
	return request->kind >= REQUEST_SETTLE;
}

/* Acts that the SQL functions log which make them */
static inline bool
request_is_admin_act(const Request *request)
{
	return request->kind >= REQUEST_ADJUST && request->kind <= REQUEST_REPAY;
}

#endif							/* QUOTA_REQUEST_H */

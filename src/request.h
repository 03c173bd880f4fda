/*-------------------------------------------------------------------------
 *
 * request.h
 *	  What a caller asks of the engine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_REQUEST_H
#define QUOTA_REQUEST_H

#include "utils/uuid.h"

#include "amount.h"

/* metadata of an event may be this large, as jsonb */
#define REQUEST_MAX_METADATA	(64 * 1024)

typedef struct Request
{
	bool		dry_run;		/* decide, but write nothing */
	pg_uuid_t	user_id;
	char	   *metric;			/* as the caller named it */
	Amount		amount;
	text	   *key;			/* idempotency key, or NULL */
	Datum		metadata;		/* jsonb object, or 0 */
} Request;

#endif							/* QUOTA_REQUEST_H */

/*-------------------------------------------------------------------------
 *
 * post.h
 *	  The engine: decides requests and records them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_POST_H
#define QUOTA_POST_H

#include "outcome.h"
#include "request.h"

extern void post(const Request *request, Outcome *outcomes);
extern void post_lock(const pg_uuid_t *user_ids, int n, const char *metric);
extern void post_batch(const Request *requests, int n, Outcome *outcomes);

#endif							/* QUOTA_POST_H */

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
#include "request.h"

extern void audit_insert(RelationSet *set, const Request *request,
						 const Outcome *outcome, bool waited,
						 TimestampTz at);

#endif							/* QUOTA_AUDIT_H */

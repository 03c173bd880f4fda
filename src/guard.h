/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  Refusals that come before anything else, and checks of arguments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_GUARD_H
#define QUOTA_GUARD_H

#include "fmgr.h"
#include "request.h"

extern void guard_can_read(const char *function);
extern void guard_can_write(const char *function);
extern void guard_request(FunctionCallInfo fcinfo, int key_arg, int metadata_arg,
						  Request *request, RequestItem *item);
extern Amount guard_amount(FunctionCallInfo fcinfo, int arg);
extern void guard_key_value(const text *key);
extern text *guard_key(FunctionCallInfo fcinfo, int arg);
extern Datum guard_metadata(FunctionCallInfo fcinfo, int arg);
extern Datum guard_reason(FunctionCallInfo fcinfo, int arg);
extern pg_uuid_t guard_id(FunctionCallInfo fcinfo, int arg, const char *what,
						  const char *hint);
extern pg_uuid_t guard_user_id(FunctionCallInfo fcinfo, int arg);
extern char *guard_metric(FunctionCallInfo fcinfo, int arg);

#endif							/* QUOTA_GUARD_H */

/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  Refusals that come before anything else, and checks of arguments.
 *
 * One condition, one function, one message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "amount_numeric.h"
#include "compat.h"
#include "guard.h"

/*
 * Refuse where the newest state cannot be read: in a parallel worker or under
 * a parallel plan (25000)
 */
void
guard_can_read(const char *function)
{
	PreventCommandIfParallelMode(function);
}

/* Refuse also in a read-only transaction and on a standby (both 25006) */
void
guard_can_write(const char *function)
{
	PreventCommandIfReadOnly(function);
	guard_can_read(function);
}

static void
raise_null(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s must not be null", what),
			 errhint("%s", hint)));
}

pg_uuid_t
guard_user_id(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		raise_null("user id", "Pass the uuid of the user, team or tenant.");
	return *PG_GETARG_UUID_P(arg);
}

/*
 * A metric's name as the caller gave it, palloc'd; whether it exists is not
 * checked
 */
char *
guard_metric(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		raise_null("metric", "Pass the name or an alias of a row in quota.metrics.");
	return text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

void
guard_key_value(const text *key)
{
	if (VARSIZE_ANY_EXHDR(key) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("idempotency key must not be empty"),
				 errhint("Pass NULL for a call without a key.")));
}

/* An idempotency key; NULL if none was given */
text *
guard_key(FunctionCallInfo fcinfo, int arg)
{
	text	   *key;

	if (PG_ARGISNULL(arg))
		return NULL;
	key = PG_GETARG_TEXT_PP(arg);
	guard_key_value(key);
	return key;
}

/* A jsonb object; 0 if none was given */
Datum
guard_metadata(FunctionCallInfo fcinfo, int arg)
{
	Jsonb	   *metadata;

	if (PG_ARGISNULL(arg))
		return (Datum) 0;
	metadata = PG_GETARG_JSONB_P(arg);
	if (!JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object"),
				 errhint("Put the value into one, under a name.")));
	if (VARSIZE(metadata) > REQUEST_MAX_METADATA)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata is too large"),
				 errdetail("It has %zu bytes, at most %d are kept with an event.",
						   (size_t) VARSIZE(metadata), REQUEST_MAX_METADATA),
				 errhint("Store it in a table of your own, and its key in the metadata.")));
	return JsonbPGetDatum(metadata);
}

/* A reason, as {"reason": text}; 0 if none was given */
Datum
guard_reason(FunctionCallInfo fcinfo, int arg)
{
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};
	JsonbValue	value = {.type = jbvString};
	text	   *reason;

	if (PG_ARGISNULL(arg))
		return (Datum) 0;
	reason = PG_GETARG_TEXT_PP(arg);
	if (VARSIZE_ANY_EXHDR(reason) > REQUEST_MAX_METADATA / 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("reason is too long"),
				 errdetail("It has %d bytes, at most %d are kept.",
						   (int) VARSIZE_ANY_EXHDR(reason), REQUEST_MAX_METADATA / 2),
				 errhint("Keep it short, and details in a table of your own.")));
	key.val.string.val = "reason";
	key.val.string.len = strlen("reason");
	value.val.string.val = VARDATA_ANY(reason);
	value.val.string.len = VARSIZE_ANY_EXHDR(reason);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) pushJsonbValue(&state, WJB_KEY, &key);
	(void) pushJsonbValue(&state, WJB_VALUE, &value);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* An amount of a caller: above 0, finite, at most 6 decimals; else 22023 */
Amount
guard_amount(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		raise_null("amount", "Pass how much is used, or leave the argument out for 1.");
	return amount_from_argument(PG_GETARG_NUMERIC(arg));
}

/* The id of something that an earlier call returned */
pg_uuid_t
guard_id(FunctionCallInfo fcinfo, int arg, const char *what, const char *hint)
{
	if (PG_ARGISNULL(arg))
		raise_null(what, hint);
	return *PG_GETARG_UUID_P(arg);
}

/*
 * Read the arguments (user id, metric, amount) of a call, and, if both numbers
 * are given, those of the idempotency key and the metadata.  Raises 22023 for
 * anything that cannot be a request.
 */
void
guard_request(FunctionCallInfo fcinfo, int key_arg, int metadata_arg,
			  Request *request, RequestItem *item)
{
	memset(request, 0, sizeof(*request));
	memset(item, 0, sizeof(*item));
	request->items = item;
	request->nitems = 1;
	item->user_id = guard_user_id(fcinfo, 0);
	item->metric = guard_metric(fcinfo, 1);
	item->amount = guard_amount(fcinfo, 2);
	if (key_arg >= 0)
		item->key = guard_key(fcinfo, key_arg);
	if (metadata_arg >= 0)
		request->metadata = guard_metadata(fcinfo, metadata_arg);
}

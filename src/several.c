/*-------------------------------------------------------------------------
 *
 * several.c
 *	  SQL functions that make several requests in one call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#define QUOTA_COMPAT_SRF
#include "amount_numeric.h"
#include "compat.h"
#include "guard.h"
#include "post.h"

/* metrics of one call, and requests of one batch, at most */
#define MAX_METRICS		100
#define MAX_BATCH		10000

PG_FUNCTION_INFO_V1(quota_consume_quotas);
PG_FUNCTION_INFO_V1(quota_consume_quota_batch);

static void
raise_bad_requests(const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("requests must be a JSON object of metrics and amounts"),
			 errdetail("%s", detail),
			 errhint("For instance {\"ai_generations\": 1, \"tokens\": 812.5}.")));
}

/* Read {"metric": amount, ...} into items, which has room for MAX_METRICS */
static int
read_requests(Jsonb *requests, RequestItem *items)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(requests))
		raise_bad_requests("It is not an object.");
	if (JB_ROOT_COUNT(requests) == 0)
		raise_bad_requests("It is empty.");
	if (JB_ROOT_COUNT(requests) > MAX_METRICS)
		raise_bad_requests(psprintf("It has %d metrics, at most %d are charged at once.",
									(int) JB_ROOT_COUNT(requests), MAX_METRICS));
	it = JsonbIteratorInit(&requests->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			memset(&items[n], 0, sizeof(RequestItem));
			items[n].metric = pnstrdup(v.val.string.val, v.val.string.len);
		}
		else if (token == WJB_VALUE)
		{
			if (v.type != jbvNumeric)
				raise_bad_requests(psprintf("The amount of \"%s\" is not a number.",
											items[n].metric));
			items[n++].amount = amount_from_argument(v.val.numeric);
		}
	}
	return n;
}

static int
compare_outcomes(const void *a, const void *b)
{
	return strcmp(((const Outcome *) a)->metric, ((const Outcome *) b)->metric);
}

/* All or nothing over several metrics of one subject */
Datum
quota_consume_quotas(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Request		request = {0};
	Outcome    *outcomes;
	pg_uuid_t	user_id;
	text	   *key;

	guard_can_write("consume_quotas()");
	user_id = guard_user_id(fcinfo, 0);
	if (PG_ARGISNULL(1))
		raise_bad_requests("It is null.");
	key = guard_key(fcinfo, 2);
	request.items = palloc(MAX_METRICS * sizeof(RequestItem));
	request.nitems = read_requests(PG_GETARG_JSONB_P(1), request.items);
	request.metadata = guard_metadata(fcinfo, 3);
	for (int i = 0; i < request.nitems; i++)
	{
		request.items[i].user_id = user_id;
		request.items[i].key = key;
	}

	compat_init_materialized_srf(fcinfo);
	outcomes = palloc0(request.nitems * sizeof(Outcome));
	post(&request, outcomes);
	qsort(outcomes, request.nitems, sizeof(Outcome), compare_outcomes);
	for (int i = 0; i < request.nitems; i++)
		outcome_put(rsinfo, &outcomes[i]);
	return (Datum) 0;
}

/* The elements of an array argument; *nulls tells which are null */
static Datum *
read_array(FunctionCallInfo fcinfo, int arg, const char *what, Oid type, int typlen,
		   bool byval, char align, int *n, bool **nulls)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(arg);
	Datum	   *elements;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array of %s has more than one dimension", what),
				 errhint("Pass arrays with one element for each request.")));
	deconstruct_array(array, type, typlen, byval, align, &elements, nulls, n);
	return elements;
}

static void
check_length(const char *what, int n, int expected)
{
	if (n != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays of a batch differ in length"),
				 errdetail("There are %d subjects, and %d %s.", expected, n, what),
				 errhint("Pass arrays with one element for each request.")));
}

static void
raise_null_element(const char *what, int i)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s of request %d is null", what, i + 1),
			 errhint("Only the idempotency key of a request may be null.")));
}

/* Independent requests in one round trip */
Datum
quota_consume_quota_batch(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *users;
	Datum	   *metrics;
	Datum	   *amounts = NULL;
	Datum	   *keys = NULL;
	bool	   *user_nulls;
	bool	   *metric_nulls;
	bool	   *amount_nulls = NULL;
	bool	   *key_nulls = NULL;
	int			n;
	int			length;
	Request    *requests;
	RequestItem *items;
	Outcome    *outcomes;

	guard_can_write("consume_quota_batch()");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arrays of subjects and metrics must not be null"),
				 errhint("Pass arrays with one element for each request.")));
	users = read_array(fcinfo, 0, "subjects", UUIDOID, UUID_LEN, false, TYPALIGN_CHAR,
					   &n, &user_nulls);
	metrics = read_array(fcinfo, 1, "metrics", TEXTOID, -1, false, TYPALIGN_INT,
						 &length, &metric_nulls);
	check_length("metrics", length, n);
	if (!PG_ARGISNULL(2))
	{
		amounts = read_array(fcinfo, 2, "amounts", NUMERICOID, -1, false, TYPALIGN_INT,
							 &length, &amount_nulls);
		check_length("amounts", length, n);
	}
	if (!PG_ARGISNULL(3))
	{
		keys = read_array(fcinfo, 3, "idempotency keys", TEXTOID, -1, false, TYPALIGN_INT,
						  &length, &key_nulls);
		check_length("idempotency keys", length, n);
	}
	if (n > MAX_BATCH)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch is too large"),
				 errdetail("It has %d requests, at most %d are made at once.", n, MAX_BATCH),
				 errhint("Split it.")));

	requests = palloc0((n + 1) * sizeof(Request));
	items = palloc0((n + 1) * sizeof(RequestItem));
	for (int i = 0; i < n; i++)
	{
		requests[i].items = &items[i];
		requests[i].nitems = 1;
		if (user_nulls[i])
			raise_null_element("user id", i);
		items[i].user_id = *DatumGetUUIDP(users[i]);
		if (metric_nulls[i])
			raise_null_element("metric", i);
		items[i].metric = TextDatumGetCString(metrics[i]);
		if (amounts && amount_nulls[i])
			raise_null_element("amount", i);
		items[i].amount = amounts ? amount_from_argument(DatumGetNumeric(amounts[i])) :
			AMOUNT_UNIT;
		if (keys && !key_nulls[i])
		{
			items[i].key = DatumGetTextPP(keys[i]);
			guard_key_value(items[i].key);
		}
	}

	compat_init_materialized_srf(fcinfo);
	outcomes = palloc0((n + 1) * sizeof(Outcome));
	post_batch(requests, n, outcomes);
	for (int i = 0; i < n; i++)
		outcome_put(rsinfo, &outcomes[i]);
	return (Datum) 0;
}

/*-------------------------------------------------------------------------
 *
 * outcome.c
 *	  The answer to a request, and its SQL type quota.outcome.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "amount_numeric.h"
#include "catalog.h"
#include "errors.h"
#include "outcome.h"

enum
{
	Anum_outcome_allowed = 1,
	Anum_outcome_remaining,
	Anum_outcome_limit_amount,
	Anum_outcome_bonus_used,
	Anum_outcome_already_processed,
	Anum_outcome_reason,
	Anum_outcome_metric,
	Anum_outcome_period,
	Anum_outcome_used,
	Anum_outcome_bonus_remaining,
	Anum_outcome_overage,
	Anum_outcome_cost,
	Anum_outcome_period_start,
	Anum_outcome_resets_at,
	Anum_outcome_retry_after,
	Anum_outcome_event_id,
	Anum_outcome_binding_user_id,
	Anum_outcome_granted,
	Anum_outcome_reservation_id,
	Anum_outcome_shortfall,
	Natts_outcome = Anum_outcome_shortfall
};

/* A value of type quota.outcome, palloc'd in the current context */
static Datum
form_datum(const Outcome *o)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(catalog_outcome_type(), -1);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc0(desc->natts * sizeof(bool));
	Interval	retry_after;
	HeapTuple	tuple;

	Assert(desc->natts >= Natts_outcome);
	memset(nulls + Natts_outcome, true, desc->natts - Natts_outcome);
	memset(&retry_after, 0, sizeof(retry_after));

#define SET(att, value) (values[(att) - 1] = (value))
#define SET_NULL_IF(att, condition) (nulls[(att) - 1] = (condition))
	SET(Anum_outcome_allowed, BoolGetDatum(o->allowed));
	SET(Anum_outcome_remaining, amount_get_datum(o->remaining));
	SET_NULL_IF(Anum_outcome_remaining, o->unlimited);
	SET(Anum_outcome_limit_amount, amount_get_datum(o->limit_amount));
	SET_NULL_IF(Anum_outcome_limit_amount, o->unlimited || o->no_limit);
	SET(Anum_outcome_bonus_used, amount_get_datum(o->bonus_used));
	SET(Anum_outcome_already_processed, BoolGetDatum(o->already_processed));
	SET(Anum_outcome_reason, CStringGetTextDatum(o->reason));
	SET(Anum_outcome_metric, CStringGetTextDatum(o->metric));
	if (o->period)
		SET(Anum_outcome_period, CStringGetTextDatum(o->period));
	SET_NULL_IF(Anum_outcome_period, o->period == NULL);
	SET(Anum_outcome_used, amount_get_datum(o->used));
	SET(Anum_outcome_bonus_remaining, amount_get_datum(o->bonus_remaining));
	SET(Anum_outcome_overage, amount_get_datum(o->overage));
	SET(Anum_outcome_cost, money_get_datum(o->cost));
	SET(Anum_outcome_period_start, TimestampTzGetDatum(o->period_start));
	SET_NULL_IF(Anum_outcome_period_start, o->no_limit);
	SET(Anum_outcome_resets_at, TimestampTzGetDatum(o->resets_at));
	SET_NULL_IF(Anum_outcome_resets_at, o->no_limit || o->resets_at == DT_NOEND);
	retry_after.time = o->retry_after;
	SET(Anum_outcome_retry_after, IntervalPGetDatum(&retry_after));
	SET_NULL_IF(Anum_outcome_retry_after, o->retry_after == DECISION_NEVER);
	SET(Anum_outcome_event_id, UUIDPGetDatum(&o->event_id));
	SET_NULL_IF(Anum_outcome_event_id, !o->has_event);
	SET(Anum_outcome_binding_user_id, UUIDPGetDatum(&o->binding_user_id));
	SET_NULL_IF(Anum_outcome_binding_user_id, o->no_limit);
	SET(Anum_outcome_granted, amount_get_datum(o->granted));
	SET(Anum_outcome_reservation_id, UUIDPGetDatum(&o->reservation_id));
	SET_NULL_IF(Anum_outcome_reservation_id, !o->has_reservation);
	SET(Anum_outcome_shortfall, amount_get_datum(o->shortfall));
	SET_NULL_IF(Anum_outcome_shortfall, !o->has_shortfall);
#undef SET
#undef SET_NULL_IF

	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/*
 * A value of type quota.outcome.  It is formed once and kept with the outcome,
 * which must not change afterwards.
 */
Datum
outcome_get_datum(Outcome *o)
{
	if (o->datum == 0)
		o->datum = form_datum(o);
	return o->datum;
}

/* Copy what an outcome points to into the current context */
void
outcome_copy(Outcome *o)
{
	o->reason = pstrdup(o->reason);
	o->metric = pstrdup(o->metric);
	if (o->period)
		o->period = pstrdup(o->period);
	if (o->datum)
		o->datum = datumCopy(o->datum, false, -1);
}

/* Read back an answer that was given; strings are palloc'd */
void
outcome_from_datum(Datum datum, Outcome *o)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(datum);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	Datum	   *values = palloc(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

	heap_deform_tuple(&tuple, desc, values, nulls);
	ReleaseTupleDesc(desc);
	memset(o, 0, sizeof(*o));

#define VALUE(att) values[(att) - 1]
#define ISNULL(att) nulls[(att) - 1]
#define AMOUNT(att) (ISNULL(att) ? 0 : amount_from_datum(VALUE(att)))
#define STRING(att) (ISNULL(att) ? NULL : TextDatumGetCString(VALUE(att)))
	o->allowed = DatumGetBool(VALUE(Anum_outcome_allowed));
	o->already_processed = DatumGetBool(VALUE(Anum_outcome_already_processed));
	o->unlimited = ISNULL(Anum_outcome_remaining);
	o->no_limit = ISNULL(Anum_outcome_period);
	o->remaining = AMOUNT(Anum_outcome_remaining);
	o->limit_amount = AMOUNT(Anum_outcome_limit_amount);
	o->bonus_used = ISNULL(Anum_outcome_bonus_used) ? 0 :
		amount_from_signed_datum(VALUE(Anum_outcome_bonus_used));
	o->reason = STRING(Anum_outcome_reason);
	o->metric = STRING(Anum_outcome_metric);
	o->period = STRING(Anum_outcome_period);
	o->used = AMOUNT(Anum_outcome_used);
	o->bonus_remaining = AMOUNT(Anum_outcome_bonus_remaining);
	o->overage = ISNULL(Anum_outcome_overage) ? 0 :
		amount_from_signed_datum(VALUE(Anum_outcome_overage));
	o->cost = ISNULL(Anum_outcome_cost) ? 0 :
		money_from_datum(VALUE(Anum_outcome_cost));
	o->period_start = DatumGetTimestampTz(VALUE(Anum_outcome_period_start));
	o->resets_at = ISNULL(Anum_outcome_resets_at) ? DT_NOEND :
		DatumGetTimestampTz(VALUE(Anum_outcome_resets_at));
	o->retry_after = ISNULL(Anum_outcome_retry_after) ? DECISION_NEVER :
		DatumGetIntervalP(VALUE(Anum_outcome_retry_after))->time;
	o->has_event = !ISNULL(Anum_outcome_event_id);
	if (o->has_event)
		o->event_id = *DatumGetUUIDP(VALUE(Anum_outcome_event_id));
	if (!ISNULL(Anum_outcome_binding_user_id))
		o->binding_user_id = *DatumGetUUIDP(VALUE(Anum_outcome_binding_user_id));
	o->granted = ISNULL(Anum_outcome_granted) ? 0 :
		amount_from_signed_datum(VALUE(Anum_outcome_granted));
	o->has_reservation = !ISNULL(Anum_outcome_reservation_id);
	if (o->has_reservation)
		o->reservation_id = *DatumGetUUIDP(VALUE(Anum_outcome_reservation_id));
	o->has_shortfall = !ISNULL(Anum_outcome_shortfall);
	o->shortfall = AMOUNT(Anum_outcome_shortfall);
#undef VALUE
#undef ISNULL
#undef AMOUNT
#undef STRING
}

/* Raise QU001 for a denial of so many units */
void
outcome_raise_denied(const Outcome *o, Amount amount)
{
	char	   *limit = o->no_limit ? "none" : amount_to_string(o->limit_amount);

	ereport(ERROR,
			(errcode(ERRCODE_QUOTA_EXCEEDED),
			 errmsg("quota for \"%s\" denied: %s", o->metric, o->reason),
			 errdetail("Requested %s, remaining %s, limit %s%s%s.",
					   amount_to_string(amount),
					   o->unlimited ? "unlimited" : amount_to_string(o->remaining),
					   o->unlimited ? "unlimited" : limit,
					   o->period ? " per " : "", o->period ? o->period : ""),
			 o->retry_after == DECISION_NEVER ? 0 :
			 errhint("The same request can succeed from %s on.",
					 timestamptz_to_str(o->decided_at + o->retry_after))));
}

/* Add an outcome to the rows that a set-returning function returns */
void
outcome_put(ReturnSetInfo *rsinfo, Outcome *o)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(outcome_get_datum(o));
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(header), .t_data = header};

	ItemPointerSetInvalid(&tuple.t_self);
	tuplestore_puttuple(rsinfo->setResult, &tuple);
}

/*-------------------------------------------------------------------------
 *
 * support.c
 *	  SQL functions that tables and SQL functions of the extension build on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "amount_numeric.h"
#include "guard.h"
#include "guc.h"
#include "id.h"
#include "limit.h"
#include "period.h"

PG_FUNCTION_INFO_V1(quota_canonical_period);
PG_FUNCTION_INFO_V1(quota_valid_time_zone);
PG_FUNCTION_INFO_V1(quota_valid_limit);
PG_FUNCTION_INFO_V1(quota_valid_price);
PG_FUNCTION_INFO_V1(quota_checked_amount);
PG_FUNCTION_INFO_V1(quota_clock);
PG_FUNCTION_INFO_V1(quota_new_id);
PG_FUNCTION_INFO_V1(quota_resolve_metric);
PG_FUNCTION_INFO_V1(quota_period_length);
PG_FUNCTION_INFO_V1(quota_period_bounds);
PG_FUNCTION_INFO_V1(quota_invalidate_limits);

static Period
parse_period(const char *name)
{
	Period		period;

	if (!period_parse(name, &period))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown period \"%s\"", name),
				 errhint("Use minute, hour, day, week, month, quarter, year, lifetime, or a multiple such as \"5 minutes\".")));
	return period;
}

/*
 * Is this the name of a zone?  pg_tzset() also takes POSIX specifications, in
 * which "+05:30" means west and a misspelt name can be a fixed offset.  Those
 * always have a digit, as few names have, or a colon at the front.
 */
static bool
is_zone_name(const char *name)
{
	bool		found = strpbrk(name, "0123456789:") == NULL;
	pg_tzenum  *names;
	pg_tz	   *zone;

	if (found)
		return true;
	names = pg_tzenumerate_start();
	while (!found && (zone = pg_tzenumerate_next(names)) != NULL)
		found = pg_strcasecmp(name, pg_get_timezone_name(zone)) == 0;
	pg_tzenumerate_end(names);
	return found;
}

static pg_tz *
parse_time_zone(const char *name)
{
	pg_tz	   *zone = pg_tzset(name);

	if (zone == NULL || !pg_tz_acceptable(zone) || !is_zone_name(name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("pg_timezone_names lists the names.")));
	return zone;
}

Datum
quota_canonical_period(PG_FUNCTION_ARGS)
{
	Period		period = parse_period(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char		name[PERIOD_NAMELEN];

	period_name(&period, name);
	PG_RETURN_TEXT_P(cstring_to_text(name));
}

Datum
quota_valid_time_zone(PG_FUNCTION_ARGS)
{
	(void) parse_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	PG_RETURN_BOOL(true);
}

Datum
quota_valid_limit(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0))
		amount_check_limit(PG_GETARG_NUMERIC(0));
	PG_RETURN_BOOL(true);
}

Datum
quota_valid_price(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0))
		amount_check_price(PG_GETARG_NUMERIC(0));
	PG_RETURN_BOOL(true);
}

Datum
quota_checked_amount(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("amount must not be null"),
				 errhint("Pass how much is granted.")));
	PG_RETURN_DATUM(amount_get_datum(amount_from_argument(PG_GETARG_NUMERIC(0))));
}

Datum
quota_clock(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(clock_now());
}

Datum
quota_new_id(PG_FUNCTION_ARGS)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	id_generate(PG_GETARG_TIMESTAMPTZ(0), id);
	PG_RETURN_UUID_P(id);
}

Datum
quota_resolve_metric(PG_FUNCTION_ARGS)
{
	guard_can_read("resolve_metric()");
	catalog_refresh();
	PG_RETURN_TEXT_P(cstring_to_text(limit_metric_name(guard_metric(fcinfo, 0))));
}

Datum
quota_period_length(PG_FUNCTION_ARGS)
{
	Period		period = parse_period(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_INT64(period_length(&period));
}

Datum
quota_period_bounds(PG_FUNCTION_ARGS)
{
	Datum		values[2] = {0};
	bool		nulls[2] = {false};
	TupleDesc	desc;
	Period		period;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("period, time zone and instant must not be null")));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	period = parse_period(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (period.unit == PERIOD_LIFETIME)
		nulls[0] = nulls[1] = true;
	else
	{
		TimestampTz anchor = PG_ARGISNULL(1) ? 0 : PG_GETARG_TIMESTAMPTZ(1);
		TimestampTz start;
		TimestampTz end;

		period_bounds(&period, PG_ARGISNULL(1) ? NULL : &anchor,
					  parse_time_zone(text_to_cstring(PG_GETARG_TEXT_PP(2))),
					  PG_GETARG_TIMESTAMPTZ(3), &start, &end);
		values[0] = TimestampTzGetDatum(start);
		values[1] = TimestampTzGetDatum(end);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * Trigger: tells all sessions, at commit, that cached limits are out of date
 */
Datum
quota_invalidate_limits(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("invalidate_limits() must be called as a trigger")));
	trigdata = (TriggerData *) fcinfo->context;
	CacheInvalidateRelcache(trigdata->tg_relation);
	PG_RETURN_POINTER(TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ?
					  trigdata->tg_newtuple : trigdata->tg_trigtuple);
}

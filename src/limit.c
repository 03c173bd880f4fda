/*-------------------------------------------------------------------------
 *
 * limit.c
 *	  Which limits a subject has on a metric.
 *
 * Precedence: an override that has not expired, then the plan's limit, then
 * nothing, which denies.  The plan is the subscription's, or else the one that
 * quota.default_plan names.  Subscriptions and overrides are read at each
 * call, in their latest version: limits are not part of the caller's snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "errors.h"
#include "guc.h"
#include "limit.h"
#include "limit_cache.h"

#define DEFAULT_ZONE	"UTC"

/*
 * The metric that a name or alias stands for, palloc'd.  Raises QU002 if there
 * is none, and 22023 for an empty name.
 */
char *
limit_metric_name(const char *name)
{
	const CachedMetric *metric;

	if (*name == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metric must not be empty"),
				 errhint("Pass the name or an alias of a row in quota.metrics.")));
	metric = limit_cache_metric(name);
	if (metric == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_QUOTA_UNKNOWN_METRIC),
				 errmsg("unknown metric \"%s\"", name),
				 errhint("Add it to quota.metrics, or check the spelling.")));
	return pstrdup(metric->name);
}

/* The kind of a metric, or of what an alias stands for; errors as above */
MetricKind
limit_metric_kind(const char *name)
{
	return limit_cache_metric(limit_metric_name(name))->kind;
}

/*
 * How far the limits have come.  They are read as they are now, subscriptions
 * and overrides through a snapshot: what was read goes together if nothing has
 * changed from before the snapshot was taken until after resolving.
 */
LimitVersion
limit_version(void)
{
	LimitVersion version;

	catalog_refresh();
	/* what resets have hidden shows only when the tables are read again */
	version.changes = limit_cache_version();
	version.changes += catalog_changes();
	version.resets = catalog_resets();
	return version;
}

/* May there be overrides, of anybody, that a call has to look for? */
bool
limit_any_overrides(void)
{
	return !limit_cache_no_overrides();
}

/* Read the subscription of a subject */
Subscription *
limit_subscription(RelationSet *set, const pg_uuid_t *user_id)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_SUBSCRIPTIONS);
	Subscription *s = palloc0(sizeof(Subscription));
	Datum		key = UUIDPGetDatum(user_id);
	Datum		datum;
	bool		isnull;

	s->moment = relations_moment(set);
	s->exists = relation_find(set, INDEX_SUBSCRIPTIONS_PKEY, 1, &key, VIEW_LATEST, slot);
	if (s->exists)
	{
		datum = slot_getattr(slot, Anum_subscriptions_plan, &isnull);
		s->plan = isnull ? NULL : TextDatumGetCString(datum);
		datum = slot_getattr(slot, Anum_subscriptions_parent, &isnull);
		s->has_parent = !isnull;
		if (!isnull)
			s->parent = *DatumGetUUIDP(datum);
		datum = slot_getattr(slot, Anum_subscriptions_pending_at, &isnull);
		s->pending_at = isnull ? DT_NOEND : DatumGetTimestampTz(datum);
		if (!isnull)
			s->pending_plan = TextDatumGetCString(slot_getattr(slot, Anum_subscriptions_pending_plan,
															   &isnull));
		s->anchor = DatumGetTimestampTz(slot_getattr(slot, Anum_subscriptions_anchor, &isnull));
		s->zone = TextDatumGetCString(slot_getattr(slot, Anum_subscriptions_time_zone, &isnull));
	}
	ExecClearTuple(slot);
	return s;
}

/*
 * The plan of a subject as it is at "now", and what goes with it.  "known" is
 * its subscription, if the call has read it already, or NULL; it counts as long
 * as the call has not looked at what was committed since.
 */
static void
resolve_plan(RelationSet *set, TimestampTz now, const Subscription *known, LimitSet *out)
{
	const Subscription *s = known && known->moment == relations_moment(set) ? known :
		limit_subscription(set, &out->user_id);

	out->subscribed = s->exists;
	if (s->exists)
	{
		out->plan = s->pending_at <= now ? s->pending_plan : s->plan;
		if (s->pending_at > now)
			out->valid_until = Min(out->valid_until, s->pending_at);
		out->has_parent = s->has_parent;
		out->parent = s->parent;
		out->anchor = s->anchor;
		out->zone = s->zone;
		return;
	}
	out->plan = quota_default_plan && *quota_default_plan ?
		pstrdup(quota_default_plan) : NULL;
	out->anchor = 0;
	out->zone = DEFAULT_ZONE;
	if (out->plan && !limit_cache_plan_exists(out->plan))
		ereport(ERROR,
				(errcode(ERRCODE_QUOTA_UNKNOWN_PLAN),
				 errmsg("unknown plan \"%s\"", out->plan),
				 errdetail("The setting quota.default_plan names it."),
				 errhint("Add it to quota.plans, or change the setting.")));
}

/* The longest window; among windows of equal length the first by name */
static int
find_allowance(const LimitSet *limits)
{
	int			longest = 0;

	for (int i = 1; i < limits->nlimits; i++)
		if (period_length(&limits->limits[i].period) >
			period_length(&limits->limits[longest].period))
			longest = i;
	return longest;
}

static int
compare_limits(const void *a, const void *b)
{
	return strcmp(((const QuotaLimit *) a)->period_name,
				  ((const QuotaLimit *) b)->period_name);
}

/* The window of a period's name, or NULL */
QuotaLimit *
limit_find(const LimitSet *limits, const char *period)
{
	for (int i = 0; i < limits->nlimits; i++)
		if (strcmp(limits->limits[i].period_name, period) == 0)
			return &limits->limits[i];
	return NULL;
}

/* Add a window that only an override has; out->limits has room for one more */
static QuotaLimit *
add_limit(LimitSet *out, const char *period)
{
	QuotaLimit *	limit = &out->limits[out->nlimits++];

	memset(limit, 0, sizeof(*limit));
	if (!period_parse(period, &limit->period))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("override of \"%s\" has an unknown period \"%s\"",
						out->metric, period)));
	period_name(&limit->period, limit->period_name);
	limit->anchor = ANCHOR_CALENDAR;
	return limit;
}

typedef struct Override
{
	char	   *period;			/* NULL: the allowance */
	bool		unlimited;
	Amount		amount;
} Override;

/* Read the overrides in force at "now"; returns a list of Override */
static List *
read_overrides(RelationSet *set, LimitSet *limits, TimestampTz now)
{
	TupleTableSlot *slot = relation_scratch_slot(set, TABLE_LIMIT_OVERRIDES);
	Datum		keys[2];
	RelationScan *scan;
	List	   *result = NIL;

	keys[0] = UUIDPGetDatum(&limits->user_id);
	keys[1] = CStringGetTextDatum(limits->metric);
	scan = relation_scan_begin(set, INDEX_LIMIT_OVERRIDES_LOOKUP, 2, keys, VIEW_LATEST);
	while (relation_scan_next(scan, slot))
	{
		Override   *o;
		bool		isnull;
		Datum		datum = slot_getattr(slot, Anum_limit_overrides_expires_at, &isnull);

		if (!isnull && DatumGetTimestampTz(datum) <= now)
			continue;
		if (!isnull)
			limits->valid_until = Min(limits->valid_until, DatumGetTimestampTz(datum));
		o = palloc(sizeof(Override));
		datum = slot_getattr(slot, Anum_limit_overrides_period, &isnull);
		o->period = isnull ? NULL : TextDatumGetCString(datum);
		datum = slot_getattr(slot, Anum_limit_overrides_limit_amount, &o->unlimited);
		o->amount = o->unlimited ? 0 : amount_from_datum(datum);
		result = lappend(result, o);
	}
	relation_scan_end(scan);
	return result;
}

static void
set_limit(QuotaLimit *limit, const Override *o)
{
	/* a burst of its own stays */
	if (limit->burst == limit->amount)
		limit->burst = o->amount;
	limit->unlimited = o->unlimited;
	limit->amount = o->amount;
}

/*
 * Apply overrides.  One for the allowance goes to the longest window of the
 * plan, unless another one names that window.
 */
static void
apply_overrides(LimitSet *out, List *overrides)
{
	ListCell   *lc;

	foreach(lc, overrides)
	{
		Override   *o = lfirst(lc);

		if (o->period == NULL)
			set_limit(out->nlimits > 0 ? &out->limits[find_allowance(out)] :
					  add_limit(out, "lifetime"), o);
	}
	foreach(lc, overrides)
	{
		Override   *o = lfirst(lc);
		QuotaLimit *	limit;

		if (o->period == NULL)
			continue;
		limit = limit_find(out, o->period);
		set_limit(limit ? limit : add_limit(out, o->period), o);
	}
	qsort(out->limits, out->nlimits, sizeof(QuotaLimit), compare_limits);
}

/*
 * Find the limits of a subject on a metric (a name as limit_metric_name()
 * returns it) that are in force at a time.  No limits means: not in the plan.
 * "known" is as for resolve_plan().
 */
void
limit_resolve(RelationSet *set, const pg_uuid_t *user_id, const char *metric,
			  TimestampTz now, const Subscription *known, LimitSet *out)
{
	const CachedLimit *first;
	const CachedMetric *cached;
	List	   *overrides = NIL;

	memset(out, 0, sizeof(*out));
	out->user_id = *user_id;
	out->metric = pstrdup(metric);
	out->valid_until = DT_NOEND;
	out->kind = METRIC_COUNTER;
	resolve_plan(set, now, known, out);
	if (limit_any_overrides())
		overrides = read_overrides(set, out, now);

	cached = limit_cache_metric(metric);
	out->kind = cached ? cached->kind : METRIC_COUNTER;
	if (out->plan)
		out->nlimits = limit_cache_plan_limits(out->plan, metric, &first);
	if (out->nlimits + list_length(overrides) == 0)
		return;

	out->limits = palloc((out->nlimits + list_length(overrides)) * sizeof(QuotaLimit));
	for (int i = 0; i < out->nlimits; i++)
		out->limits[i] = first[i].limit;
	if (overrides != NIL)
		apply_overrides(out, overrides);
	out->allowance = find_allowance(out);
}

static List *
add_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return names;
	return lappend(names, pstrdup(name));
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/*
 * Names of the metrics on which a subject has limits or overrides at "now",
 * sorted
 */
List *
limit_metrics(RelationSet *set, const pg_uuid_t *user_id, TimestampTz now)
{
	LimitSet	subject = {.user_id = *user_id};
	List	   *names = NIL;

	resolve_plan(set, now, NULL, &subject);
	if (subject.plan)
	{
		const CachedLimit *first;
		int			n = limit_cache_plan_limits(subject.plan, NULL, &first);

		for (int i = 0; i < n; i++)
			names = add_name(names, first[i].metric);
	}
	if (limit_any_overrides())
	{
		TupleTableSlot *slot = relation_scratch_slot(set, TABLE_LIMIT_OVERRIDES);
		Datum		key = UUIDPGetDatum(user_id);
		RelationScan *scan = relation_scan_begin(set, INDEX_LIMIT_OVERRIDES_LOOKUP,
												 1, &key, VIEW_LATEST);
		bool		isnull;

		while (relation_scan_next(scan, slot))
			names = add_name(names,
							 TextDatumGetCString(slot_getattr(slot, Anum_limit_overrides_metric,
															  &isnull)));
		relation_scan_end(scan);
	}
	list_sort(names, compare_names);
	return names;
}

/*
 * Does the account of this limit go on for ever?  Levels do not start again
 * with a period, whatever the period is called.
 */
bool
limit_never_resets(const LimitSet *limits, const QuotaLimit *limit)
{
	return limits->kind != METRIC_COUNTER || limit->period.unit == PERIOD_LIFETIME ||
		limit->algorithm != ALGORITHM_FIXED;
}

/* The subject's time zone */
pg_tz *
limit_zone(const LimitSet *limits)
{
	pg_tz	   *zone = pg_tzset(limits->zone);

	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" is not known to this server", limits->zone),
				 errhint("Correct quota.subscriptions.time_zone.")));
	return zone;
}

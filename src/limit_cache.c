/*-------------------------------------------------------------------------
 *
 * limit_cache.c
 *	  Metrics, plans and plan limits, cached in each session.
 *
 * These tables change rarely and are small, so the whole of them is read when
 * anything in them changed.  What is read is what is committed now (and own
 * changes), never the transaction's snapshot: the cache outlives transactions.
 * catalog.c tells when it is out of date, also when a transaction whose own
 * changes were read rolls back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "amount_numeric.h"
#include "limit_cache.h"

typedef struct LimitCache
{
	MemoryContext cxt;
	CachedMetric *metrics;
	int			nmetrics;
	char	  **plans;
	int			nplans;
	CachedLimit *limits;
	int			nlimits;
	bool		any_rollover;	/* does anything of any plan roll over? */
} LimitCache;

static LimitCache *cache = NULL;
static uint64 version = 0;		/* how often anything here has changed */
static uint64 cache_generation = 0;

static bool no_overrides = false;
static bool no_recurring = false;
static uint64 rows_generation = 0;

static char *
text_attr(TupleTableSlot *slot, int attnum)
{
	bool		isnull;
	Datum		datum = slot_getattr(slot, attnum, &isnull);

	return isnull ? NULL : TextDatumGetCString(datum);
}

/*
 * Make room for one more element in a palloc'd array, doubling it.  Elements
 * are zeroed, padding too: same_cache() compares bytes.
 */
static void *
grow(void *array, int n, Size size)
{
	if (array == NULL)
		return palloc0(8 * size);
	if (n >= 8 && (n & (n - 1)) == 0)
	{
		array = repalloc(array, 2 * n * size);
		memset((char *) array + n * size, 0, n * size);
	}
	return array;
}

static void
read_metric(TupleTableSlot *slot, void *arg)
{
	LimitCache *c = arg;
	CachedMetric *m;
	char	   *kind = text_attr(slot, Anum_metrics_kind);

	c->metrics = grow(c->metrics, c->nmetrics, sizeof(CachedMetric));
	m = &c->metrics[c->nmetrics++];
	m->name = m->metric = text_attr(slot, Anum_metrics_metric);
	m->kind = strcmp(kind, "gauge") == 0 ? METRIC_GAUGE :
		strcmp(kind, "feature") == 0 ? METRIC_FEATURE : METRIC_COUNTER;
	m->is_alias = false;
}

static void
read_alias(TupleTableSlot *slot, void *arg)
{
	LimitCache *c = arg;
	CachedMetric *m;

	c->metrics = grow(c->metrics, c->nmetrics, sizeof(CachedMetric));
	m = &c->metrics[c->nmetrics++];
	m->name = text_attr(slot, Anum_metric_aliases_alias);
	m->metric = text_attr(slot, Anum_metric_aliases_metric);
	m->kind = METRIC_COUNTER;	/* looked up by the metric's own name */
	m->is_alias = true;
}

static void
read_plan(TupleTableSlot *slot, void *arg)
{
	LimitCache *c = arg;

	c->plans = grow(c->plans, c->nplans, sizeof(char *));
	c->plans[c->nplans++] = text_attr(slot, Anum_plans_plan);
}

/* What happens beyond the limit, and with what is not used of it */
static void
read_terms(TupleTableSlot *slot, QuotaLimit *limit)
{
	char	   *mode = text_attr(slot, Anum_plan_limits_mode);
	char	   *algorithm = text_attr(slot, Anum_plan_limits_algorithm);
	Rollover   *rollover = &limit->rollover;
	bool		isnull;
	Datum		datum;

	limit->mode = strcmp(mode, "soft") == 0 ? MODE_SOFT :
		strcmp(mode, "shadow") == 0 ? MODE_SHADOW : MODE_HARD;
	datum = slot_getattr(slot, Anum_plan_limits_overage_price, &isnull);
	limit->price = isnull ? 0 : price_from_datum(datum);
	datum = slot_getattr(slot, Anum_plan_limits_spend_cap, &isnull);
	limit->capped = !isnull;
	limit->spend_cap = isnull ? 0 : money_from_datum(datum);
	limit->repay = DatumGetBool(slot_getattr(slot, Anum_plan_limits_repay_overage, &isnull));

	limit->algorithm = strcmp(algorithm, "sliding") == 0 ? ALGORITHM_SLIDING :
		strcmp(algorithm, "gcra") == 0 ? ALGORITHM_GCRA : ALGORITHM_FIXED;
	datum = slot_getattr(slot, Anum_plan_limits_burst, &isnull);
	limit->burst = isnull ? limit->amount : amount_from_datum(datum);

	datum = slot_getattr(slot, Anum_plan_limits_rollover_max, &isnull);
	rollover->enabled = !isnull;
	rollover->max = isnull ? 0 : amount_from_datum(datum);
	datum = slot_getattr(slot, Anum_plan_limits_rollover_min, &isnull);
	rollover->min = isnull ? 0 : amount_from_datum(datum);
	datum = slot_getattr(slot, Anum_plan_limits_rollover_ttl, &isnull);
	rollover->expires = !isnull;
	if (!isnull)
		rollover->ttl = *DatumGetIntervalP(datum);
}

static void
read_limit(TupleTableSlot *slot, void *arg)
{
	LimitCache *c = arg;
	CachedLimit *l;
	char	   *period = text_attr(slot, Anum_plan_limits_period);
	char	   *anchor = text_attr(slot, Anum_plan_limits_anchor);
	bool		unlimited;
	Datum		amount = slot_getattr(slot, Anum_plan_limits_limit_amount, &unlimited);

	c->limits = grow(c->limits, c->nlimits, sizeof(CachedLimit));
	l = &c->limits[c->nlimits++];
	l->plan = text_attr(slot, Anum_plan_limits_plan);
	l->metric = text_attr(slot, Anum_plan_limits_metric);
	if (!period_parse(period, &l->limit.period))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("plan \"%s\" limits \"%s\" by an unknown period \"%s\"",
						l->plan, l->metric, period)));
	period_name(&l->limit.period, l->limit.period_name);
	l->limit.anchor = strcmp(anchor, "subscription") == 0 ? ANCHOR_SUBSCRIPTION :
		strcmp(anchor, "first_use") == 0 ? ANCHOR_FIRST_USE : ANCHOR_CALENDAR;
	l->limit.unlimited = unlimited;
	l->limit.amount = unlimited ? 0 : amount_from_datum(amount);
	read_terms(slot, &l->limit);
	c->any_rollover |= l->limit.rollover.enabled;
}

/* A metric goes before an alias of the same name */
static int
compare_metrics(const void *a, const void *b)
{
	const CachedMetric *x = a;
	const CachedMetric *y = b;
	int			c = strcmp(x->name, y->name);

	return c != 0 ? c : (int) x->is_alias - (int) y->is_alias;
}

static int
compare_plans(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static int
compare_limits(const void *a, const void *b)
{
	const CachedLimit *x = a;
	const CachedLimit *y = b;
	int			c = strcmp(x->plan, y->plan);

	if (c == 0)
		c = strcmp(x->metric, y->metric);
	return c != 0 ? c : strcmp(x->limit.period_name, y->limit.period_name);
}

/*
 * Do two caches say the same?  Limits are compared byte by byte, so that none
 * of their fields can be forgotten here.
 */
static bool
same_cache(const LimitCache *a, const LimitCache *b)
{
	if (a->nmetrics != b->nmetrics || a->nplans != b->nplans ||
		a->nlimits != b->nlimits)
		return false;
	for (int i = 0; i < a->nmetrics; i++)
		if (compare_metrics(&a->metrics[i], &b->metrics[i]) != 0 ||
			strcmp(a->metrics[i].metric, b->metrics[i].metric) != 0 ||
			a->metrics[i].kind != b->metrics[i].kind)
			return false;
	for (int i = 0; i < a->nplans; i++)
		if (strcmp(a->plans[i], b->plans[i]) != 0)
			return false;
	for (int i = 0; i < a->nlimits; i++)
		if (compare_limits(&a->limits[i], &b->limits[i]) != 0 ||
			memcmp(&a->limits[i].limit, &b->limits[i].limit, sizeof(QuotaLimit)) != 0)
			return false;
	return true;
}

/*
 * Read the tables into a new cache and swap it in.  An error on the way leaves
 * the old one, still known to be out of date.  Where the new one says the same,
 * the old one stays.
 */
static void
load_cache(uint64 generation)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext,
											  "quota limits",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	LimitCache *c = palloc0(sizeof(LimitCache));

	c->cxt = cxt;
	(void) relation_read_all(TABLE_METRICS, read_metric, c);
	(void) relation_read_all(TABLE_METRIC_ALIASES, read_alias, c);
	(void) relation_read_all(TABLE_PLANS, read_plan, c);
	(void) relation_read_all(TABLE_PLAN_LIMITS, read_limit, c);
	MemoryContextSwitchTo(old);

	if (c->nmetrics > 0)
		qsort(c->metrics, c->nmetrics, sizeof(CachedMetric), compare_metrics);
	if (c->nplans > 0)
		qsort(c->plans, c->nplans, sizeof(char *), compare_plans);
	if (c->nlimits > 0)
		qsort(c->limits, c->nlimits, sizeof(CachedLimit), compare_limits);

	cache_generation = generation;
	if (cache && same_cache(cache, c))
	{
		MemoryContextDelete(cxt);
		return;
	}
	MemoryContextSetParent(cxt, CacheMemoryContext);
	if (cache)
		MemoryContextDelete(cache->cxt);
	cache = c;
	version++;
}

/* The cache, no older than the last invalidation that has arrived */
static LimitCache *
current_cache(void)
{
	uint64		generation = catalog_limits_generation();

	if (cache == NULL || cache_generation != generation)
		load_cache(generation);
	return cache;
}

static const CachedMetric *
find_metric(const LimitCache *c, const char *name)
{
	int			lo = 0;
	int			hi = c->nmetrics;

	while (lo < hi)
	{
		int			mid = (lo + hi) / 2;

		if (strcmp(c->metrics[mid].name, name) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo >= c->nmetrics || strcmp(c->metrics[lo].name, name) != 0)
		return NULL;
	return &c->metrics[lo];
}

/* The metric that a name or an alias stands for, or NULL */
const CachedMetric *
limit_cache_metric(const char *name)
{
	LimitCache *c = current_cache();
	const CachedMetric *metric = find_metric(c, name);

	if (metric && metric->is_alias)
		metric = find_metric(c, metric->metric);
	return metric;
}

bool
limit_cache_plan_exists(const char *plan)
{
	LimitCache *c = current_cache();

	return c->nplans > 0 &&
		bsearch(&plan, c->plans, c->nplans, sizeof(char *), compare_plans) != NULL;
}

/*
 * The limits of a plan on a metric, or, with metric NULL, on all metrics:
 * returns how many, and a pointer to the first of them in an array that is
 * sorted by metric and period name.
 */
int
limit_cache_plan_limits(const char *plan, const char *metric,
						const CachedLimit **first)
{
	LimitCache *c = current_cache();
	int			lo = 0;
	int			hi = c->nlimits;
	int			n = 0;

	while (lo < hi)
	{
		CachedLimit *l = &c->limits[(lo + hi) / 2];
		int			cmp = strcmp(l->plan, plan);

		if (cmp == 0 && metric)
			cmp = strcmp(l->metric, metric);
		if (cmp < 0)
			lo = (lo + hi) / 2 + 1;
		else
			hi = (lo + hi) / 2;
	}
	*first = &c->limits[lo];
	while (lo + n < c->nlimits && strcmp(c->limits[lo + n].plan, plan) == 0 &&
		   (metric == NULL || strcmp(c->limits[lo + n].metric, metric) == 0))
		n++;
	return n;
}

/* Does unused allowance of any plan roll over? */
bool
limit_cache_any_rollover(void)
{
	return current_cache()->any_rollover;
}

/* Look which of the tables that few databases use have rows */
static void
look_for_rows(void)
{
	uint64		generation = catalog_overrides_generation();
	bool		overrides;
	bool		recurring;

	if (rows_generation == generation)
		return;
	overrides = !relation_read_all(TABLE_LIMIT_OVERRIDES, NULL, NULL);
	recurring = !relation_read_all(TABLE_RECURRING_BONUSES, NULL, NULL);
	if (overrides != no_overrides || recurring != no_recurring)
		version++;
	no_overrides = overrides;
	no_recurring = recurring;
	rows_generation = generation;
}

/*
 * Is the table of overrides known to be empty?  Most databases have none, and
 * then no call needs to look.
 */
bool
limit_cache_no_overrides(void)
{
	look_for_rows();
	return no_overrides;
}

/* The same of recurring bonuses */
bool
limit_cache_no_recurring(void)
{
	look_for_rows();
	return no_recurring;
}

/* Number that goes up whenever one of the answers above has changed */
uint64
limit_cache_version(void)
{
	(void) current_cache();
	look_for_rows();
	return version;
}

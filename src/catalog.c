/*-------------------------------------------------------------------------
 *
 * catalog.c
 *	  Finds the extension's own tables, indexes and types, and notices when
 *	  what was found, or what other files cached from it, is out of date.
 *
 * OIDs are looked up by name and kept until a relcache invalidation names one
 * of them: DROP EXTENSION, a rolled back CREATE EXTENSION, and REINDEX
 * CONCURRENTLY (which swaps index OIDs) all send one.  The callback is
 * registered before the first OID is stored, and only writes plain memory: it
 * may run wherever a lock is taken, also while a lookup is half done.  For
 * that reason callers copy an OID out and use it; none is kept across calls.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"

#define QUOTA_SCHEMA	"quota"

static const struct
{
	const char *name;
	int			natts;
}			tables[TABLE_COUNT] =
{
	[TABLE_METRICS] = {"metrics", Natts_metrics},
	[TABLE_METRIC_ALIASES] = {"metric_aliases", Natts_metric_aliases},
	[TABLE_PLANS] = {"plans", Natts_plans},
	[TABLE_PLAN_LIMITS] = {"plan_limits", Natts_plan_limits},
	[TABLE_SUBSCRIPTIONS] = {"subscriptions", Natts_subscriptions},
	[TABLE_LIMIT_OVERRIDES] = {"limit_overrides", Natts_limit_overrides},
	[TABLE_USAGE_TRACKING] = {"usage_tracking", Natts_usage_tracking},
	[TABLE_USAGE_HISTORY] = {"usage_history", Natts_usage_history},
	[TABLE_USER_BONUSES] = {"user_bonuses", Natts_user_bonuses},
	[TABLE_USAGE_EVENTS] = {"usage_events", Natts_usage_events},
	[TABLE_BONUS_ALLOCATIONS] = {"bonus_allocations", Natts_bonus_allocations},
	[TABLE_QUOTA_AUDIT_LOG] = {"quota_audit_log", Natts_quota_audit_log},
};

static const char *const indexes[INDEX_COUNT] = {
	[INDEX_SUBSCRIPTIONS_PKEY] = "subscriptions_pkey",
	[INDEX_LIMIT_OVERRIDES_LOOKUP] = "idx_limit_overrides_lookup",
	[INDEX_USAGE_TRACKING_QUOTA_LOOKUP] = "idx_usage_tracking_quota_lookup",
	[INDEX_USER_BONUSES_AVAILABLE] = "idx_user_bonuses_available",
	[INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP] = "idx_usage_events_idempotency_lookup",
};

static Oid	table_oids[TABLE_COUNT];
static Oid	index_oids[INDEX_COUNT];
static Oid	outcome_type;

/*
 * Counted up whenever cached limits, or cached knowledge about overrides, may
 * be out of date.  A cache remembers the number it saw *before* it read the
 * tables, so that a change that arrives while it reads is not lost.
 */
static uint64 limits_generation = 1;
static uint64 overrides_generation = 1;

static void
forget_oids(void)
{
	memset(table_oids, 0, sizeof(table_oids));
	memset(index_oids, 0, sizeof(index_oids));
	outcome_type = InvalidOid;
}

static void
relcache_callback(Datum arg, Oid relid)
{
	bool		ours = (relid == InvalidOid);

	for (int i = 0; i < TABLE_COUNT && !ours; i++)
		ours = (table_oids[i] == relid);
	for (int i = 0; i < INDEX_COUNT && !ours; i++)
		ours = (index_oids[i] == relid);
	if (!ours)
		return;

	if (relid == InvalidOid || relid == table_oids[TABLE_LIMIT_OVERRIDES])
		overrides_generation++;
	if (relid == InvalidOid ||
		relid == table_oids[TABLE_METRICS] ||
		relid == table_oids[TABLE_METRIC_ALIASES] ||
		relid == table_oids[TABLE_PLANS] ||
		relid == table_oids[TABLE_PLAN_LIMITS])
		limits_generation++;
	forget_oids();
}

/* OID of the schema; registers the callback before any OID can be stored */
static Oid
schema_oid(void)
{
	static bool registered = false;
	Oid			schema;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}

	schema = get_namespace_oid(QUOTA_SCHEMA, true);
	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_SCHEMA_NAME),
				 errmsg("schema \"%s\" does not exist", QUOTA_SCHEMA),
				 errhint("Run CREATE EXTENSION quota in this database.")));
	return schema;
}

static Oid
relation_oid(const char *name)
{
	Oid			relid = get_relname_relid(name, schema_oid());

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", QUOTA_SCHEMA, name),
				 errhint("Restore it, or drop and create the extension.")));
	return relid;
}

/*
 * Take in what other sessions have changed.  Taking locks does so, too, but not
 * in a transaction that already holds all locks that it needs.
 */
void
catalog_refresh(void)
{
	AcceptInvalidationMessages();
}

/* OID of a table of the extension; raises an error if it is missing */
Oid
catalog_table(QuotaTable table)
{
	Oid			relid = table_oids[table];

	if (!OidIsValid(relid))
	{
		relid = relation_oid(tables[table].name);
		table_oids[table] = relid;
	}
	return relid;
}

/*
 * OID of an index of the extension.  The caller holds a lock on its table, so
 * that the index cannot go away before it is opened.
 */
Oid
catalog_index(QuotaIndex index)
{
	Oid			relid = index_oids[index];

	if (!OidIsValid(relid))
	{
		relid = relation_oid(indexes[index]);
		index_oids[index] = relid;
	}
	return relid;
}

/* OID of the type quota.outcome */
Oid
catalog_outcome_type(void)
{
	Oid			type = outcome_type;

	if (!OidIsValid(type))
	{
		type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							   CStringGetDatum("outcome"),
							   ObjectIdGetDatum(schema_oid()));
		if (!OidIsValid(type))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("type \"%s.outcome\" does not exist", QUOTA_SCHEMA)));
		outcome_type = type;
	}
	return type;
}

/* How many columns this library knows in a table */
int
catalog_natts(QuotaTable table)
{
	return tables[table].natts;
}

/*
 * Number that changes when metrics, aliases, plans or plan limits may have
 * changed.  The tables' OIDs must be known for a change to be recognized, so
 * this looks them up.
 */
uint64
catalog_limits_generation(void)
{
	(void) catalog_table(TABLE_METRICS);
	(void) catalog_table(TABLE_METRIC_ALIASES);
	(void) catalog_table(TABLE_PLANS);
	(void) catalog_table(TABLE_PLAN_LIMITS);
	return limits_generation;
}

/* The same for limit overrides */
uint64
catalog_overrides_generation(void)
{
	(void) catalog_table(TABLE_LIMIT_OVERRIDES);
	return overrides_generation;
}

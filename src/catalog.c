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
	[TABLE_RECURRING_BONUSES] = {"recurring_bonuses", Natts_recurring_bonuses},
	[TABLE_USAGE_TRACKING] = {"usage_tracking", Natts_usage_tracking},
	[TABLE_USAGE_HISTORY] = {"usage_history", Natts_usage_history},
	[TABLE_USER_BONUSES] = {"user_bonuses", Natts_user_bonuses},
	[TABLE_USAGE_EVENTS] = {"usage_events", Natts_usage_events},
	[TABLE_BONUS_ALLOCATIONS] = {"bonus_allocations", Natts_bonus_allocations},
	[TABLE_QUOTA_AUDIT_LOG] = {"quota_audit_log", Natts_quota_audit_log},
};

static const char *const indexes[INDEX_COUNT] = {
	[INDEX_SUBSCRIPTIONS_PKEY] = "subscriptions_pkey",
	[INDEX_SUBSCRIPTIONS_PARENT] = "idx_subscriptions_parent",
	[INDEX_LIMIT_OVERRIDES_LOOKUP] = "idx_limit_overrides_lookup",
	[INDEX_RECURRING_BONUSES_LOOKUP] = "idx_recurring_bonuses_lookup",
	[INDEX_USAGE_TRACKING_QUOTA_LOOKUP] = "idx_usage_tracking_quota_lookup",
	[INDEX_USAGE_HISTORY_ACCOUNT] = "idx_usage_history_account",
	[INDEX_USER_BONUSES_PKEY] = "user_bonuses_pkey",
	[INDEX_USER_BONUSES_AVAILABLE] = "idx_user_bonuses_available",
	[INDEX_USER_BONUSES_USER] = "idx_user_bonuses_user",
	[INDEX_USAGE_EVENTS_PKEY] = "usage_events_pkey",
	[INDEX_USAGE_EVENTS_IDEMPOTENCY_LOOKUP] = "idx_usage_events_idempotency_lookup",
	[INDEX_USAGE_EVENTS_REFERS_TO] = "idx_usage_events_refers_to",
	[INDEX_USAGE_EVENTS_HOLDS] = "idx_usage_events_holds",
	[INDEX_USAGE_EVENTS_USER] = "idx_usage_events_user",
	[INDEX_BONUS_ALLOCATIONS_PKEY] = "bonus_allocations_pkey",
};

/*
 * An OID that is no longer valid is looked up again, but kept until then: the
 * messages that concern it have to be recognized all the time.
 */
typedef struct CachedOid
{
	Oid			oid;
	bool		valid;
} CachedOid;

static CachedOid table_oids[TABLE_COUNT];
static CachedOid index_oids[INDEX_COUNT];
static CachedOid outcome_type;

/*
 * Counted up whenever cached limits, or cached knowledge about overrides, may
 * be out of date: changes that were announced, and resets of everything, which
 * may or may not hide one.  A cache remembers the number it saw *before* it
 * read the tables, so that a change that arrives while it reads is not lost.
 */
static uint64 limits_changes = 0;
static uint64 overrides_changes = 0;
static uint64 resets = 1;

static void
invalidate(CachedOid *cached, Oid relid)
{
	if (relid == InvalidOid || cached->oid == relid)
		cached->valid = false;
}

/* relid InvalidOid means: everything */
static void
relcache_callback(Datum arg, Oid relid)
{
	for (int i = 0; i < TABLE_COUNT; i++)
	{
		if (relid != InvalidOid && relid != table_oids[i].oid)
			continue;
		table_oids[i].valid = false;
		/* dropping the extension drops its types with its tables */
		outcome_type.valid = false;
		if (relid == InvalidOid)
			continue;
		if (i == TABLE_LIMIT_OVERRIDES || i == TABLE_RECURRING_BONUSES)
			overrides_changes++;
		else if (i == TABLE_METRICS || i == TABLE_METRIC_ALIASES ||
				 i == TABLE_PLANS || i == TABLE_PLAN_LIMITS)
			limits_changes++;
	}
	if (relid == InvalidOid)
		resets++;
	for (int i = 0; i < INDEX_COUNT; i++)
		invalidate(&index_oids[i], relid);
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

/*
 * OID of a relation that may be known already; raises an error if it is
 * missing
 */
static Oid
relation_oid(CachedOid *cached, const char *name)
{
	Oid			relid;

	if (cached->valid)
		return cached->oid;

	relid = get_relname_relid(name, schema_oid());

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", QUOTA_SCHEMA, name),
				 errhint("Restore it, or drop and create the extension.")));
	cached->oid = relid;
	cached->valid = true;
	return relid;
}

/*
 * Take in what other sessions have changed.  Taking locks does so, too, but
 * not in a transaction that already holds all locks that it needs.
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
	return relation_oid(&table_oids[table], tables[table].name);
}

/*
 * OID of an index of the extension.  The caller holds a lock on its table, so
 * that the index cannot go away before it is opened.
 */
Oid
catalog_index(QuotaIndex index)
{
	return relation_oid(&index_oids[index], indexes[index]);
}

/* OID of the type quota.outcome */
Oid
catalog_outcome_type(void)
{
	Oid			type = outcome_type.oid;

	if (!outcome_type.valid)
	{
		type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
							   CStringGetDatum("outcome"),
							   ObjectIdGetDatum(schema_oid()));
		if (!OidIsValid(type))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("type \"%s.outcome\" does not exist", QUOTA_SCHEMA)));
		outcome_type.oid = type;
		outcome_type.valid = true;
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
	return limits_changes + resets;
}

/* The same for limit overrides and recurring bonuses */
uint64
catalog_overrides_generation(void)
{
	(void) catalog_table(TABLE_LIMIT_OVERRIDES);
	(void) catalog_table(TABLE_RECURRING_BONUSES);
	return overrides_changes + resets;
}

/* How many changes to any of these tables have been announced */
uint64
catalog_changes(void)
{
	return limits_changes + overrides_changes;
}

/* How often everything had to be forgotten, which may hide such a change */
uint64
catalog_resets(void)
{
	return resets;
}

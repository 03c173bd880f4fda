/*-------------------------------------------------------------------------
 *
 * limit_cache.h
 *	  Metrics, plans and plan limits, cached in each session.
 *
 * Pointers that these functions return are into the cache, which the next call
 * of any of them may replace: copy before calling another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_LIMIT_CACHE_H
#define QUOTA_LIMIT_CACHE_H

#include "limit.h"

typedef struct CachedMetric
{
	char	   *name;			/* metric or alias */
	char	   *metric;			/* what it stands for */
	MetricKind	kind;
	bool		is_alias;
} CachedMetric;

typedef struct CachedLimit
{
	char	   *plan;
	char	   *metric;
	QuotaLimit		limit;
} CachedLimit;

extern const CachedMetric *limit_cache_metric(const char *name);
extern bool limit_cache_plan_exists(const char *plan);
extern int	limit_cache_plan_limits(const char *plan, const char *metric,
									const CachedLimit **first);
extern bool limit_cache_any_rollover(void);
extern bool limit_cache_no_overrides(void);
extern bool limit_cache_no_recurring(void);
extern uint64 limit_cache_version(void);

#endif							/* QUOTA_LIMIT_CACHE_H */

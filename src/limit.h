/*-------------------------------------------------------------------------
 *
 * limit.h
 *	  Which limits a subject has on a metric.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_LIMIT_H
#define QUOTA_LIMIT_H

#include "utils/uuid.h"

#include "amount.h"
#include "period.h"
#include "relation.h"

typedef enum MetricKind
{
	METRIC_COUNTER,
	METRIC_GAUGE,
	METRIC_FEATURE
} MetricKind;

typedef enum LimitAnchor
{
	ANCHOR_CALENDAR,
	ANCHOR_SUBSCRIPTION,
	ANCHOR_FIRST_USE
} LimitAnchor;

/* See limit_version() */
typedef struct LimitVersion
{
	uint64		changes;		/* those that are known */
	uint64		resets;			/* moments that may hide one: the server told to
								 * forget everything */
} LimitVersion;

/* One window */
typedef struct QuotaLimit
{
	char		period_name[PERIOD_NAMELEN];
	Period		period;
	LimitAnchor anchor;
	bool		unlimited;
	Amount		amount;			/* ignored if unlimited */
} QuotaLimit;

/*
 * The limits of one subject on one metric, copied into the caller's memory.
 * limits[] is in the order in which accounts are locked: by period name.
 */
typedef struct LimitSet
{
	pg_uuid_t	user_id;
	char	   *metric;			/* aliases resolved */
	MetricKind	kind;
	char	   *plan;			/* NULL: no plan */
	bool		subscribed;		/* else anchor and zone are defaults */
	TimestampTz anchor;
	char	   *zone;
	QuotaLimit *	limits;
	int			nlimits;
	TimestampTz valid_until;	/* when the first override in force expires */
	int			allowance;		/* the longest window, which bonuses extend */
} LimitSet;

extern LimitVersion limit_version(void);
extern bool limit_any_overrides(void);
extern char *limit_metric_name(const char *name);
extern void limit_resolve(RelationSet *set, const pg_uuid_t *user_id,
						  const char *metric, TimestampTz now, LimitSet *out);
extern List *limit_metrics(RelationSet *set, const pg_uuid_t *user_id);
extern bool limit_never_resets(const LimitSet *limits, const QuotaLimit *limit);
extern pg_tz *limit_zone(const LimitSet *limits);

#endif							/* QUOTA_LIMIT_H */

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

#include "decision.h"
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

/* a subject and its parents, at most */
#define LIMIT_MAX_LEVELS	8

/* See limit_version() */
typedef struct LimitVersion
{
	uint64		changes;		/* those that are known */
	uint64		resets;			/* moments that may hide one: the server told to
								 * forget everything */
} LimitVersion;

/* How a window counts */
typedef enum LimitAlgorithm
{
	ALGORITHM_FIXED,
	ALGORITHM_SLIDING,
	ALGORITHM_GCRA
} LimitAlgorithm;

/* What rolls over at the end of a period */
typedef struct Rollover
{
	bool		enabled;
	Amount		min;
	Amount		max;
	bool		expires;
	Interval	ttl;			/* if it expires */
} Rollover;

/* One window */
typedef struct QuotaLimit
{
	char		period_name[PERIOD_NAMELEN];
	Period		period;
	LimitAnchor anchor;
	bool		unlimited;
	Amount		amount;			/* ignored if unlimited */
	LimitMode	mode;
	Price		price;			/* of a unit of overage */
	bool		capped;
	Money		spend_cap;
	bool		repay;			/* a new bonus pays for overage first */
	LimitAlgorithm algorithm;
	Amount		burst;			/* ALGORITHM_GCRA */
	Rollover	rollover;
} QuotaLimit;

/* What the row of a subject in subscriptions says, palloc'd */
typedef struct Subscription
{
	bool		exists;			/* else nothing but "moment" counts */
	char	   *plan;			/* NULL: no plan */
	char	   *pending_plan;
	TimestampTz pending_at;		/* DT_NOEND: no plan is pending */
	bool		has_parent;
	pg_uuid_t	parent;
	TimestampTz anchor;
	char	   *zone;
	uint64		moment;			/* relations_moment() as it was read */
} Subscription;

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
	bool		has_parent;
	pg_uuid_t	parent;			/* is charged, too */
	TimestampTz anchor;
	char	   *zone;
	QuotaLimit *	limits;
	int			nlimits;
	TimestampTz valid_until;	/* when an override expires, or the plan changes */
	int			allowance;		/* the longest window, which bonuses extend */
} LimitSet;

extern LimitVersion limit_version(void);
extern bool limit_any_overrides(void);
extern char *limit_metric_name(const char *name);
extern void limit_resolve(RelationSet *set, const pg_uuid_t *user_id,
						  const char *metric, TimestampTz now,
						  const Subscription *known, LimitSet *out);
extern QuotaLimit *limit_find(const LimitSet *limits, const char *period);
extern MetricKind limit_metric_kind(const char *name);
extern Subscription *limit_subscription(RelationSet *set, const pg_uuid_t *user_id);
extern List *limit_metrics(RelationSet *set, const pg_uuid_t *user_id, TimestampTz now);
extern bool limit_never_resets(const LimitSet *limits, const QuotaLimit *limit);
extern pg_tz *limit_zone(const LimitSet *limits);

#endif							/* QUOTA_LIMIT_H */

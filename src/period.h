/*-------------------------------------------------------------------------
 *
 * period.h
 *	  Periods: their names, and where they begin and end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_PERIOD_H
#define QUOTA_PERIOD_H

#include "datatype/timestamp.h"
#include "pgtime.h"

typedef enum PeriodUnit
{
	PERIOD_MINUTE,
	PERIOD_HOUR,
	PERIOD_DAY,
	PERIOD_WEEK,
	PERIOD_MONTH,
	PERIOD_QUARTER,
	PERIOD_YEAR,
	PERIOD_LIFETIME
} PeriodUnit;

/* A multiple of a unit; count is 1 for lifetime */
typedef struct Period
{
	PeriodUnit	unit;
	int			count;
} Period;

#define PERIOD_MAX_COUNT	9999

/* longest name: "9999 quarters" */
#define PERIOD_NAMELEN		16

extern bool period_parse(const char *name, Period *period);
extern void period_name(const Period *period, char *buf);
extern int64 period_length(const Period *period);
extern TimestampTz period_add_interval(TimestampTz at, const Interval *interval,
									   pg_tz *zone);
extern void period_bounds(const Period *period, const TimestampTz *anchor,
						  pg_tz *zone, TimestampTz at,
						  TimestampTz *start, TimestampTz *end);

#endif							/* QUOTA_PERIOD_H */

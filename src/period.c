/*-------------------------------------------------------------------------
 *
 * period.c
 *	  Periods: their names, and where they begin and end.
 *
 * Period k begins at anchor + k x interval, always counted from the original
 * anchor, so that a month anchored on 31 January begins on 28 February and
 * then on 31 March again.  Days and longer are counted in the subject's local
 * time; minutes and hours are elapsed time, which a clock change leaves alone.
 * A period is [start, end).
 *
 * Knows calendars and time zones, and nothing of tables, limits or sessions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "period.h"

static const char *const unit_names[] = {
	[PERIOD_MINUTE] = "minute",
	[PERIOD_HOUR] = "hour",
	[PERIOD_DAY] = "day",
	[PERIOD_WEEK] = "week",
	[PERIOD_MONTH] = "month",
	[PERIOD_QUARTER] = "quarter",
	[PERIOD_YEAR] = "year",
	[PERIOD_LIFETIME] = "lifetime",
};

/*
 * Parse "[N] unit[s]", for instance "month", "1 month", "5 minutes".  Returns
 * false if that is not a period.
 */
bool
period_parse(const char *name, Period *period)
{
	const char *p = name;
	int			count = 0;

	while (*p >= '0' && *p <= '9')
	{
		count = count * 10 + (*p++ - '0');
		if (count > PERIOD_MAX_COUNT)
			return false;
	}
	if (p == name)
		count = 1;
	else if (count == 0 || *p++ != ' ')
		return false;

	for (int u = PERIOD_MINUTE; u <= PERIOD_LIFETIME; u++)
	{
		size_t		len = strlen(unit_names[u]);

		if (strncmp(p, unit_names[u], len) != 0)
			continue;
		if (u == PERIOD_LIFETIME && p != name)
			return false;
		if (p[len] == '\0' ||
			(u != PERIOD_LIFETIME && strcmp(p + len, "s") == 0))
		{
			period->unit = u;
			period->count = count;
			return true;
		}
	}
	return false;
}

/* Write the one spelling of a period into buf[PERIOD_NAMELEN] */
void
period_name(const Period *period, char *buf)
{
	if (period->count == 1)
		strlcpy(buf, unit_names[period->unit], PERIOD_NAMELEN);
	else
		snprintf(buf, PERIOD_NAMELEN, "%d %ss",
				 period->count, unit_names[period->unit]);
}

/*
 * Nominal length in microseconds, to rank windows; lifetime is longer than
 * any other.
 */
int64
period_length(const Period *period)
{
	static const int64 lengths[] = {
		[PERIOD_MINUTE] = USECS_PER_MINUTE,
		[PERIOD_HOUR] = USECS_PER_HOUR,
		[PERIOD_DAY] = USECS_PER_DAY,
		[PERIOD_WEEK] = 7 * USECS_PER_DAY,
		[PERIOD_MONTH] = USECS_PER_DAY / 10000 * 304375,
		[PERIOD_QUARTER] = USECS_PER_DAY / 10000 * 913125,
		[PERIOD_YEAR] = USECS_PER_DAY / 10000 * 3652500,
		[PERIOD_LIFETIME] = PG_INT64_MAX,
	};

	return lengths[period->unit] * period->count;
}

static void
out_of_range(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("quota period out of range")));
}

static void
to_tm(Timestamp local, struct pg_tm *tm, fsec_t *fsec)
{
	if (timestamp2tm(local, NULL, tm, fsec, NULL, NULL) != 0)
		out_of_range();
}

/* The wall clock of the zone at an instant */
static Timestamp
local_time(TimestampTz instant, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	Timestamp	result;

	if (timestamp2tm(instant, &tz, &tm, &fsec, NULL, zone) != 0 ||
		tm2timestamp(&tm, fsec, NULL, &result) != 0)
		out_of_range();
	return result;
}

/*
 * The instant at which the zone's wall clock shows a time.  By core's rules, a
 * time that a clock change skips is read as if the clock had not been changed
 * yet (a midnight that is skipped is the instant of the change), and of a time
 * that occurs twice the second occurrence counts.
 */
static TimestampTz
instant_of(Timestamp local, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			tz;
	TimestampTz result;

	to_tm(local, &tm, &fsec);
	tz = DetermineTimeZoneOffset(&tm, zone);
	if (tm2timestamp(&tm, fsec, &tz, &result) != 0)
		out_of_range();
	return result;
}

static int64
floor_div(int64 a, int64 b)
{
	int64		q = a / b;

	return (a % b < 0) ? q - 1 : q;
}

/* a - b, which timestamps at both ends of the range can overflow */
static int64
span(Timestamp a, Timestamp b)
{
	int64		result;

	if (pg_sub_s64_overflow(a, b, &result))
		out_of_range();
	return result;
}

/*
 * Local time a number of months later, on the last day if the month is short
 */
static Timestamp
add_months(Timestamp local, int64 months)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int64		month;
	Timestamp	result;

	to_tm(local, &tm, &fsec);
	month = (int64) tm.tm_year * MONTHS_PER_YEAR + (tm.tm_mon - 1) + months;
	if (month < (int64) PG_INT32_MIN || month > (int64) PG_INT32_MAX)
		out_of_range();
	tm.tm_year = (int) floor_div(month, MONTHS_PER_YEAR);
	tm.tm_mon = (int) (month - (int64) tm.tm_year * MONTHS_PER_YEAR) + 1;
	if (tm.tm_mday > day_tab[isleap(tm.tm_year)][tm.tm_mon - 1])
		tm.tm_mday = day_tab[isleap(tm.tm_year)][tm.tm_mon - 1];
	if (tm2timestamp(&tm, fsec, NULL, &result) != 0)
		out_of_range();
	return result;
}

/* How a unit is counted: one of the two is zero */
static void
unit_step(const Period *period, int *months, int64 *usecs)
{
	*months = 0;
	*usecs = 0;
	switch (period->unit)
	{
		case PERIOD_MONTH:
			*months = period->count;
			break;
		case PERIOD_QUARTER:
			*months = period->count * 3;
			break;
		case PERIOD_YEAR:
			*months = period->count * MONTHS_PER_YEAR;
			break;
		default:
			*usecs = period_length(period);
			break;
	}
}

/* What the periods of one limit are counted from, and by */
typedef struct PeriodGrid
{
	const TimestampTz *anchor;	/* NULL: the calendar */
	Timestamp	local_anchor;
	int			months;
	int64		usecs;
	pg_tz	   *zone;
} PeriodGrid;

/*
 * First instant of period k.  Period 0 starts at the anchor itself, which its
 * local time does not tell where a clock was set back.
 */
static TimestampTz
period_start(const PeriodGrid *grid, int64 k)
{
	if (k == 0 && grid->anchor)
		return *grid->anchor;
	return instant_of(grid->months != 0 ? add_months(grid->local_anchor, k * grid->months) :
					  grid->local_anchor + k * grid->usecs, grid->zone);
}

/*
 * The period that contains "at", counted from *anchor, or from the calendar
 * (2000-01-01, a Monday for weeks) if anchor is NULL.  Not for lifetime.
 */
void
period_bounds(const Period *period, const TimestampTz *anchor, pg_tz *zone,
			  TimestampTz at, TimestampTz *start, TimestampTz *end)
{
	Timestamp	calendar = period->unit == PERIOD_WEEK ? 2 * USECS_PER_DAY : 0;
	PeriodGrid	grid = {.anchor = anchor, .zone = zone};
	Timestamp	local_at;
	int64		k;

	Assert(period->unit != PERIOD_LIFETIME);
	if (TIMESTAMP_NOT_FINITE(at) || (anchor && TIMESTAMP_NOT_FINITE(*anchor)))
		out_of_range();
	unit_step(period, &grid.months, &grid.usecs);

	if (period->unit <= PERIOD_HOUR)
	{
		TimestampTz first = anchor ? *anchor : instant_of(calendar, zone);

		*start = first + floor_div(span(at, first), grid.usecs) * grid.usecs;
		*end = *start + grid.usecs;
		if (!IS_VALID_TIMESTAMP(*start) || !IS_VALID_TIMESTAMP(*end))
			out_of_range();
		return;
	}

	grid.local_anchor = anchor ? local_time(*anchor, zone) : calendar;
	local_at = local_time(at, zone);

	if (grid.months != 0)
	{
		struct pg_tm a,
					t;
		fsec_t		fsec;

		to_tm(grid.local_anchor, &a, &fsec);
		to_tm(local_at, &t, &fsec);
		k = floor_div(((int64) t.tm_year - a.tm_year) * MONTHS_PER_YEAR +
					  (t.tm_mon - a.tm_mon), grid.months);
	}
	else
		k = floor_div(span(local_at, grid.local_anchor), grid.usecs);

	/*
	 * The guess is at most a step off: by the day within the month, or where
	 * a clock change moved the boundary.  A day that a zone skipped (Apia, 30
	 * December 2011) is empty, and the search walks past it.
	 */
	*start = period_start(&grid, k);
	while (*start > at)
		*start = period_start(&grid, --k);
	for (;;)
	{
		*end = period_start(&grid, k + 1);
		if (*end > at)
			break;
		*start = *end;
		k++;
	}
}

/* An instant later, by the wall clock of the zone where days and months count */
TimestampTz
period_add_interval(TimestampTz at, const Interval *interval, pg_tz *zone)
{
	Timestamp	local = local_time(at, zone);
	Interval	days = *interval;

	days.time = 0;
	if (days.day != 0 || days.month != 0)
		at = instant_of(DatumGetTimestamp(DirectFunctionCall2(timestamp_pl_interval,
															  TimestampGetDatum(local),
															  IntervalPGetDatum(&days))),
						zone);
	return at + interval->time;
}

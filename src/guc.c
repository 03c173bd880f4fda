/*-------------------------------------------------------------------------
 *
 * guc.c
 *	  Settings quota.*, and the clock that one of them can stop.
 *
 * Settings that change what is enforced are for superusers only; how a
 * contended caller wants to be served is the caller's choice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define QUOTA_COMPAT_DATETIME
#include "compat.h"
#include "guc.h"

/*
 * quota.isolation: whose view decides in REPEATABLE READ and SERIALIZABLE.
 * "strict" keeps to the caller's snapshot and raises 40001 when another
 * transaction moved the account since; "latest" decides on the account as it
 * is now and never raises 40001 by itself.  Both are exact.  READ COMMITTED is
 * the same under both.
 */
int			quota_isolation = ISOLATION_STRICT;

/* quota.default_plan: plan of subjects without a subscription; empty = none */
char	   *quota_default_plan = NULL;

/* quota.test_clock: freezes the clock of decisions, for tests; empty = off */
static char *test_clock = NULL;
static TimestampTz test_clock_time = 0;

static const struct config_enum_entry isolation_options[] = {
	{"strict", ISOLATION_STRICT, false},
	{"latest", ISOLATION_LATEST, false},
	{NULL, 0, false}
};

/* Accepts what timestamptz accepts; "now" and the like are those of the SET */
static bool
check_test_clock(char **newval, void **extra, GucSource source)
{
	TimestampTz *value;
	fsec_t		fsec;
	struct pg_tm tm;
	int			tz;
	int			dtype;
	int			nf;
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	char		workbuf[MAXDATELEN + MAXDATEFIELDS];

	if (**newval == '\0')
		return true;

	value = guc_malloc(LOG, sizeof(TimestampTz));
	if (value == NULL)
		return false;

	if (ParseDateTime(*newval, workbuf, sizeof(workbuf), field, ftype,
					  MAXDATEFIELDS, &nf) != 0 ||
		compat_decode_datetime(field, ftype, nf, &dtype, &tm, &fsec, &tz) != 0 ||
		dtype != DTK_DATE ||
		tm2timestamp(&tm, fsec, &tz, value) != 0)
	{
		guc_free(value);
		GUC_check_errdetail("The test clock must be empty or a timestamp.");
		return false;
	}
	*extra = value;
	return true;
}

static void
assign_test_clock(const char *newval, void *extra)
{
	if (extra)
		test_clock_time = *(TimestampTz *) extra;
}

/*
 * Define the settings.  In the middle of a parallel plan they could not take
 * over what the session was given, and it would go on with the defaults, so
 * that comes too early: 25000.
 */
void
guc_init(void)
{
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("the library of extension \"quota\" cannot be loaded during a parallel operation"),
				 errhint("Call a function of quota earlier in the session, or add quota to session_preload_libraries.")));

	DefineCustomEnumVariable("quota.isolation",
							 "Whose view of an account decides in REPEATABLE READ and SERIALIZABLE.",
							 "strict: the caller's snapshot, a lost race raises 40001; latest: the account as it is now.",
							 &quota_isolation,
							 ISOLATION_STRICT,
							 isolation_options,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("quota.default_plan",
							   "Plan of subjects that have no subscription.",
							   "Empty: such subjects have no plan and are denied.",
							   &quota_default_plan,
							   "",
							   PGC_SUSET, 0,
							   NULL, NULL, NULL);

	DefineCustomStringVariable("quota.test_clock",
							   "Instant at which decisions are made, for tests.",
							   "Empty: the clock runs.",
							   &test_clock,
							   "",
							   PGC_SUSET, GUC_NOT_IN_SAMPLE,
							   check_test_clock, assign_test_clock, NULL);

	MarkGUCPrefixReserved("quota");
}

/*
 * Must reads of accounts keep to the transaction's snapshot?  Only then can a
 * decision meet a row that changed behind the snapshot, which raises 40001.
 */
bool
guc_caller_snapshot_rules(void)
{
	return IsolationUsesXactSnapshot() && quota_isolation == ISOLATION_STRICT;
}

/* Does SERIALIZABLE watch what an answer rests on?  Not under "latest". */
bool
guc_registers_reads(void)
{
	return IsolationIsSerializable() && quota_isolation == ISOLATION_STRICT;
}

/*
 * The time to decide at: the wall clock, or where quota.test_clock stopped it
 */
TimestampTz
clock_now(void)
{
	if (test_clock != NULL && *test_clock != '\0')
		return test_clock_time;
	return GetCurrentTimestamp();
}

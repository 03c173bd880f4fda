/*-------------------------------------------------------------------------
 *
 * guc.h
 *	  Settings quota.*, and the clock that one of them can stop.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_GUC_H
#define QUOTA_GUC_H

#include "datatype/timestamp.h"

typedef enum QuotaIsolation
{
	ISOLATION_STRICT,
	ISOLATION_LATEST
} QuotaIsolation;

extern int	quota_isolation;
extern char *quota_default_plan;

extern void guc_init(void);
extern bool guc_caller_snapshot_rules(void);
extern bool guc_registers_reads(void);
extern TimestampTz clock_now(void);

#endif							/* QUOTA_GUC_H */

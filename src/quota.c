/*-------------------------------------------------------------------------
 *
 * quota.c
 *	  The library: usage quotas enforced in the caller's transaction.
 *
 * Start here: consume.c has the functions that applications call, post.c the
 * engine behind them, docs/architecture.md one call step by step.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "guc.h"
#include "relation.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	guc_init();
	relations_init();
}

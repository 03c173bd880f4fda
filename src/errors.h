/*-------------------------------------------------------------------------
 *
 * errors.h
 *	  SQLSTATEs of class QU, which applications branch on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_ERRORS_H
#define QUOTA_ERRORS_H

#include "utils/elog.h"

/* require_quota() was denied */
#define ERRCODE_QUOTA_EXCEEDED			MAKE_SQLSTATE('Q','U','0','0','1')
/* neither a metric nor an alias of that name */
#define ERRCODE_QUOTA_UNKNOWN_METRIC	MAKE_SQLSTATE('Q','U','0','0','2')
/* no plan or preset of that name */
#define ERRCODE_QUOTA_UNKNOWN_PLAN		MAKE_SQLSTATE('Q','U','0','0','3')
/* no such reservation, or one that was resolved in another way */
#define ERRCODE_QUOTA_RESERVATION		MAKE_SQLSTATE('Q','U','0','0','4')
/* no such event, or more to be refunded than is left of it */
#define ERRCODE_QUOTA_UNKNOWN_EVENT		MAKE_SQLSTATE('Q','U','0','0','5')

#endif							/* QUOTA_ERRORS_H */

/*-------------------------------------------------------------------------
 *
 * amount_numeric.h
 *	  Amounts in and out of SQL's numeric.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_AMOUNT_NUMERIC_H
#define QUOTA_AMOUNT_NUMERIC_H

#include "utils/numeric.h"

#include "amount.h"

extern Amount amount_from_datum(Datum numeric);
extern Amount amount_from_argument(Numeric num);
extern void amount_check_limit(Numeric num);
extern Datum amount_get_datum(Amount amount);
extern char *amount_to_string(Amount amount);

#endif							/* QUOTA_AMOUNT_NUMERIC_H */

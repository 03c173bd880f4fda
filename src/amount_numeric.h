/*-------------------------------------------------------------------------
 *
 * amount_numeric.h
 *	  Amounts in and out of SQL's numeric.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_AMOUNT_NUMERIC_H
#define QUOTA_AMOUNT_NUMERIC_H

#include "executor/tuptable.h"
#include "utils/numeric.h"

#include "amount.h"

extern Amount amount_from_datum(Datum numeric);
extern Amount amount_from_signed_datum(Datum numeric);
extern Price price_from_datum(Datum numeric);
extern Money money_from_datum(Datum numeric);
extern Amount amount_from_slot(TupleTableSlot *slot, int attnum);
extern Money money_from_slot(TupleTableSlot *slot, int attnum);
extern Amount amount_from_argument(Numeric num);
extern Amount amount_from_argument_or_zero(Numeric num);
extern bool amount_is_amount_or_zero(Numeric num);
extern Amount amount_from_difference(Numeric num);
extern void amount_check_limit(Numeric num);
extern void amount_check_price(Numeric num);
extern Datum amount_get_datum(Amount amount);
extern Datum money_get_datum(Money money);
extern char *amount_to_string(Amount amount);
extern char *money_to_string(Money money);

#endif							/* QUOTA_AMOUNT_NUMERIC_H */

/*-------------------------------------------------------------------------
 *
 * amount_numeric.c
 *	  Amounts in and out of SQL's numeric, and what is accepted as an amount.
 *
 * Reads a numeric through its binary wire format, which is public and does not
 * change: base-10000 digits with the weight of the first one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "amount_numeric.h"
#include "compat.h"

#define DIGIT_BASE		10000

#define WIRE_POSITIVE		0x0000
#define WIRE_NEGATIVE		0x4000
#define WIRE_MINUS_INFINITY	0xF000

/* 10000^6 units still leave room for the millionths in 128 bits */
#define MAX_WEIGHT		6

typedef enum NumericFit
{
	FIT_EXACT,
	FIT_NOT_FINITE,
	FIT_TOO_LARGE,
	FIT_TOO_MANY_DECIMALS
} NumericFit;

static int16
wire_int16(const char *p)
{
	uint16		n;

	memcpy(&n, p, sizeof(n));
	return (int16) pg_ntoh16(n);
}

/*
 * Convert as far as that is exact.  *sign is that of the number itself, also
 * where it does not fit; it is 1 for NaN.
 */
static NumericFit
convert(Datum numeric, Amount *result, int *sign)
{
	bytea	   *wire = DatumGetByteaPP(DirectFunctionCall1(numeric_send, numeric));
	const char *p = VARDATA_ANY(wire);
	int			ndigits = wire_int16(p);
	int			weight = wire_int16(p + 2);
	uint16		wire_sign = (uint16) wire_int16(p + 4);
	Amount		sum = 0;
	NumericFit	fit = FIT_EXACT;

	*sign = wire_sign == WIRE_NEGATIVE || wire_sign == WIRE_MINUS_INFINITY ? -1 :
		wire_sign == WIRE_POSITIVE && ndigits == 0 ? 0 : 1;
	if (wire_sign != WIRE_POSITIVE && wire_sign != WIRE_NEGATIVE)
		fit = FIT_NOT_FINITE;
	else if (ndigits > 0 && weight > MAX_WEIGHT)
		fit = FIT_TOO_LARGE;
	else
	{
		for (int i = 0; i < ndigits; i++)
		{
			Amount		digit = wire_int16(p + 8 + 2 * i);
			int			exponent = weight - i;

			if (exponent >= 0)
			{
				for (int e = 0; e < exponent; e++)
					digit *= DIGIT_BASE;
				sum += digit * AMOUNT_UNIT;
			}
			else if (exponent == -1)
				sum += digit * 100;
			else if (exponent == -2 && digit % 100 == 0)
				sum += digit / 100;
			else if (digit != 0)
				fit = FIT_TOO_MANY_DECIMALS;
		}
		*result = *sign < 0 ? -sum : sum;
	}
	pfree(wire);
	return fit;
}

/* A quantity from one of our tables; raises an error if it cannot be exact */
Amount
amount_from_datum(Datum numeric)
{
	Amount		amount = 0;
	int			sign;

	if (convert(numeric, &amount, &sign) != FIT_EXACT || sign < 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored amount is not a quantity"),
				 errdetail("The value is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, numeric))),
				 errhint("Correct the row; amounts are at least 0, with at most %d decimals.",
						 AMOUNT_DECIMALS)));
	return amount;
}

static void
raise_unless_exact(NumericFit fit, const char *what, Numeric num)
{
	if (fit == FIT_EXACT)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 fit == FIT_NOT_FINITE ? errmsg("%s must be finite", what) :
			 fit == FIT_TOO_LARGE ? errmsg("%s is too large", what) :
			 errmsg("%s has more than %d decimals", what, AMOUNT_DECIMALS),
			 fit == FIT_TOO_LARGE ? errdetail("It must be below 10^18.") :
			 errdetail("The value is %s.",
					   DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(num)))),
			 fit == FIT_NOT_FINITE ? errhint("Where nothing is to be limited, the limit is NULL.") :
			 fit == FIT_TOO_LARGE ? errhint("Count in a larger unit.") :
			 errhint("Round it first, so that what counts is what you mean.")));
}

/*
 * An amount that a caller asks for or grants: above 0, finite, at most 6
 * decimals, below 10^18.  Raises 22023 otherwise.
 */
Amount
amount_from_argument(Numeric num)
{
	Amount		amount = 0;
	int			sign;
	NumericFit	fit = convert(NumericGetDatum(num), &amount, &sign);

	/* a negative amount is wrong before it is imprecise */
	if (sign <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("amount must be greater than zero"),
				 errdetail("The amount is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(num)))),
				 errhint("Quota is never given back by a negative amount.")));
	raise_unless_exact(fit == FIT_EXACT && amount >= AMOUNT_BOUND ? FIT_TOO_LARGE : fit,
					   "amount", num);
	return amount;
}

/* Raise 22023 unless this can be a limit: 0 or above, exact, below 10^18 */
void
amount_check_limit(Numeric num)
{
	Amount		amount = 0;
	int			sign;
	NumericFit	fit = convert(NumericGetDatum(num), &amount, &sign);

	if (sign < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit must not be negative"),
				 errdetail("The limit is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(num)))),
				 errhint("Use NULL for unlimited and 0 for nothing.")));
	raise_unless_exact(fit == FIT_EXACT && amount >= AMOUNT_BOUND ? FIT_TOO_LARGE : fit,
					   "limit", num);
}

/* Decimal text without trailing zeros, palloc'd */
char *
amount_to_string(Amount amount)
{
	char		buf[64];
	char	   *p = buf + sizeof(buf) - 1;
	bool		negative = amount < 0;
	Amount		rest = negative ? -amount : amount;
	int			digits = 0;
	bool		fraction = false;

	*p = '\0';
	while (rest > 0 || digits <= AMOUNT_DECIMALS)
	{
		int			digit = (int) (rest % 10);

		if (digits == AMOUNT_DECIMALS && fraction)
			*--p = '.';
		if (digits >= AMOUNT_DECIMALS || digit != 0 || fraction)
		{
			*--p = '0' + digit;
			fraction = true;
		}
		rest /= 10;
		digits++;
	}
	if (negative)
		*--p = '-';
	return pstrdup(p);
}

/*
 * As numeric, without trailing zeros.  The result may be shared: callers must
 * not change or free it.
 */
Datum
amount_get_datum(Amount amount)
{
	static Datum zero = 0;
	int64		value;
	int			scale = AMOUNT_DECIMALS;

	/* half of what a call writes and returns is 0 */
	if (amount == 0)
	{
		if (zero == 0)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			zero = NumericGetDatum(int64_to_numeric(0));
			MemoryContextSwitchTo(old);
		}
		return zero;
	}

	if (amount % AMOUNT_UNIT == 0 && amount / AMOUNT_UNIT <= PG_INT64_MAX &&
		amount / AMOUNT_UNIT >= PG_INT64_MIN)
		return NumericGetDatum(int64_to_numeric((int64) (amount / AMOUNT_UNIT)));

	if (amount > PG_INT64_MAX || amount < PG_INT64_MIN)
		return DirectFunctionCall3(numeric_in,
								   CStringGetDatum(amount_to_string(amount)),
								   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	for (value = (int64) amount; value % 10 == 0; value /= 10)
		scale--;
	return NumericGetDatum(int64_div_fast_to_numeric(value, scale));
}

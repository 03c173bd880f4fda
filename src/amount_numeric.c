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

/* digits of the wire format are of base 10000 */
#define DIGIT_DECIMALS		4

#define WIRE_POSITIVE		0x0000
#define WIRE_NEGATIVE		0x4000
#define WIRE_MINUS_INFINITY	0xF000

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

/* Is this the zero that amount_get_datum() writes?  Most stored amounts are. */
static bool
is_plain_zero(Datum numeric)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(numeric);
	struct varlena *zero = (struct varlena *) DatumGetPointer(amount_get_datum(0));

	return !VARATT_IS_EXTERNAL(value) && !VARATT_IS_COMPRESSED(value) &&
		VARSIZE_ANY(value) == VARSIZE_ANY_EXHDR(zero) + (VARATT_IS_SHORT(value) ? VARHDRSZ_SHORT : VARHDRSZ) &&
		memcmp(VARDATA_ANY(value), VARDATA_ANY(zero), VARSIZE_ANY_EXHDR(zero)) == 0;
}

/*
 * Convert to a whole number of 10^-decimals, as far as that is exact.  *sign
 * is that of the number itself, also where it does not fit; it is 1 for NaN.
 */
static NumericFit
convert(Datum numeric, int decimals, Amount *result, int *sign)
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
	/* the sum stays below 10^38, and so within 128 bits */
	else if (ndigits > 0 && (weight + 1) * DIGIT_DECIMALS + decimals > 38)
		fit = FIT_TOO_LARGE;
	else
	{
		for (int i = 0; i < ndigits; i++)
		{
			Amount		digit = wire_int16(p + 8 + 2 * i);
			int			exponent = (weight - i) * DIGIT_DECIMALS + decimals;

			for (; exponent > 0; exponent--)
				digit *= 10;
			for (; exponent < 0 && digit % 10 == 0 && digit != 0; exponent++)
				digit /= 10;
			if (exponent < 0 && digit != 0)
				fit = FIT_TOO_MANY_DECIMALS;
			else
				sum += digit;
		}
		*result = *sign < 0 ? -sum : sum;
	}
	pfree(wire);
	return fit;
}

static Amount
stored(Datum numeric, int decimals, bool may_be_negative)
{
	Amount		amount = 0;
	int			sign;

	if (is_plain_zero(numeric))
		return 0;
	if (convert(numeric, decimals, &amount, &sign) != FIT_EXACT ||
		(sign < 0 && !may_be_negative))
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("stored amount is not a quantity"),
				 errdetail("The value is %s.",
						   DatumGetCString(DirectFunctionCall1(numeric_out, numeric))),
				 errhint("Correct the row; amounts are at least 0, with at most %d decimals.",
						 decimals)));
	return amount;
}

/* A quantity from one of our tables; raises an error if it cannot be exact */
Amount
amount_from_datum(Datum numeric)
{
	return stored(numeric, AMOUNT_DECIMALS, false);
}

/* One that may be negative, because it tells what an event moved */
Amount
amount_from_signed_datum(Datum numeric)
{
	return stored(numeric, AMOUNT_DECIMALS, true);
}

/* A price per unit, and money, from one of our tables */
Price
price_from_datum(Datum numeric)
{
	return stored(numeric, PRICE_DECIMALS, false);
}

Money
money_from_datum(Datum numeric)
{
	return stored(numeric, MONEY_DECIMALS, true);
}

/* The same from a column, which is not null, of a row */
Amount
amount_from_slot(TupleTableSlot *slot, int attnum)
{
	bool		isnull;

	return amount_from_datum(slot_getattr(slot, attnum, &isnull));
}

Money
money_from_slot(TupleTableSlot *slot, int attnum)
{
	bool		isnull;

	return money_from_datum(slot_getattr(slot, attnum, &isnull));
}

static void
raise_unless_exact(NumericFit fit, const char *what, int decimals,
				   const char *bound, Numeric num)
{
	if (fit == FIT_EXACT)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 fit == FIT_NOT_FINITE ? errmsg("%s must be finite", what) :
			 fit == FIT_TOO_LARGE ? errmsg("%s is too large", what) :
			 errmsg("%s has more than %d decimals", what, decimals),
			 fit == FIT_TOO_LARGE ? errdetail("It must be below %s.", bound) :
			 errdetail("The value is %s.",
					   DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(num)))),
			 fit == FIT_NOT_FINITE ? errhint("Where nothing is to be limited, the limit is NULL.") :
			 fit == FIT_TOO_LARGE ? errhint("Count in a larger unit.") :
			 errhint("Round it first, so that what counts is what you mean.")));
}

/*
 * Convert what a caller passes.  *sign tells what is wrong before it is
 * imprecise; the caller hands the rest to raise_unless_exact().
 */
static NumericFit
convert_argument(Numeric num, int decimals, Amount bound, Amount *value, int *sign)
{
	NumericFit	fit;

	*value = 0;
	fit = convert(NumericGetDatum(num), decimals, value, sign);
	return fit == FIT_EXACT && (*value >= bound || *value <= -bound) ? FIT_TOO_LARGE : fit;
}

/* Raise 22023 for a value of the wrong sign */
static void
raise_sign(const char *message, const char *what, Numeric num, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail("The %s is %s.", what,
					   DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(num)))),
			 errhint("%s", hint)));
}

/*
 * An amount that a caller asks for or grants: above 0, finite, at most 6
 * decimals, below 10^18.  Raises 22023 otherwise.
 */
Amount
amount_from_argument(Numeric num)
{
	Amount		amount;
	int			sign;
	NumericFit	fit = convert_argument(num, AMOUNT_DECIMALS, AMOUNT_BOUND, &amount, &sign);

	if (sign <= 0)
		raise_sign("amount must be greater than zero", "amount", num,
				   "Quota is never given back by a negative amount.");
	raise_unless_exact(fit, "amount", AMOUNT_DECIMALS, "10^18", num);
	return amount;
}

/* The same, but it may be 0: what was used in the end, the level of a gauge */
Amount
amount_from_argument_or_zero(Numeric num)
{
	Amount		amount;
	int			sign;
	NumericFit	fit = convert_argument(num, AMOUNT_DECIMALS, AMOUNT_BOUND, &amount, &sign);

	if (sign < 0)
		raise_sign("amount must not be negative", "amount", num,
				   "Quota is never given back by a negative amount.");
	raise_unless_exact(fit, "amount", AMOUNT_DECIMALS, "10^18", num);
	return amount;
}

/* Would amount_from_argument_or_zero() take it? */
bool
amount_is_amount_or_zero(Numeric num)
{
	Amount		amount;
	int			sign;

	return convert_argument(num, AMOUNT_DECIMALS, AMOUNT_BOUND, &amount, &sign) == FIT_EXACT &&
		sign >= 0;
}

/* By how much an admin changes what is used: anything but 0 */
Amount
amount_from_difference(Numeric num)
{
	Amount		amount;
	int			sign;
	NumericFit	fit = convert_argument(num, AMOUNT_DECIMALS, AMOUNT_BOUND, &amount, &sign);

	if (sign == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("adjustment must not be zero"),
				 errhint("Pass the units to add to the usage, or to take off it as a negative number.")));
	raise_unless_exact(fit, "adjustment", AMOUNT_DECIMALS, "10^18", num);
	return amount;
}

/* Raise 22023 unless this can be a limit: 0 or above, exact, below 10^18 */
void
amount_check_limit(Numeric num)
{
	Amount		amount;
	int			sign;
	NumericFit	fit = convert_argument(num, AMOUNT_DECIMALS, AMOUNT_BOUND, &amount, &sign);

	if (sign < 0)
		raise_sign("limit must not be negative", "limit", num,
				   "Use NULL for unlimited and 0 for nothing.");
	raise_unless_exact(fit, "limit", AMOUNT_DECIMALS, "10^18", num);
}

/*
 * Raise 22023 unless this can be a price or a sum of money to compare with: 0
 * or above, exact, below 10^12
 */
void
amount_check_price(Numeric num)
{
	Price		price;
	int			sign;
	NumericFit	fit = convert_argument(num, PRICE_DECIMALS, PRICE_BOUND, &price, &sign);

	if (sign < 0)
		raise_sign("price must not be negative", "price", num, "Use NULL for none.");
	raise_unless_exact(fit, "price", PRICE_DECIMALS, "10^12", num);
}

static char *
to_string(Amount amount, int decimals)
{
	char		buf[64];
	char	   *p = buf + sizeof(buf) - 1;
	bool		negative = amount < 0;
	Amount		rest = negative ? -amount : amount;
	int			digits = 0;
	bool		fraction = false;

	*p = '\0';
	while (rest > 0 || digits <= decimals)
	{
		int			digit = (int) (rest % 10);

		if (digits == decimals && fraction)
			*--p = '.';
		if (digits >= decimals || digit != 0 || fraction)
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

/* Decimal text without trailing zeros, palloc'd */
char *
amount_to_string(Amount amount)
{
	return to_string(amount, AMOUNT_DECIMALS);
}

char *
money_to_string(Money money)
{
	return to_string(money, MONEY_DECIMALS);
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

/* The same of money */
Datum
money_get_datum(Money money)
{
	if (money == 0)
		return amount_get_datum(0);
	return DirectFunctionCall3(numeric_in,
							   CStringGetDatum(money_to_string(money)),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

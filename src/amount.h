/*-------------------------------------------------------------------------
 *
 * amount.h
 *	  Exact fixed-point amounts.
 *
 * Every quantity of quota is a whole number of millionths, held in 128 bits:
 * 0.2 is exactly 200000, and the sum of a thousand of them is exactly 200.
 * SQL sees numeric; amount_numeric.c converts.
 *
 * Pure: knows nothing of PostgreSQL, so that the decision can be compiled and
 * tested alone.
 *
 *-------------------------------------------------------------------------
 */
#ifndef QUOTA_AMOUNT_H
#define QUOTA_AMOUNT_H

#include <stdbool.h>
#include <stdint.h>

#ifndef __SIZEOF_INT128__
#error "quota needs a compiler with 128-bit integers"
#endif

/*
 * Allocators promise 8-byte alignment only, while the compiler may use
 * instructions that fault below 16 bytes for a plain __int128.
 */
typedef __int128 Amount __attribute__((aligned(8)));

#define AMOUNT_DECIMALS		6
#define AMOUNT_UNIT			((Amount) 1000000)

/*
 * Money: a price per unit is a whole number of 10^-12 of the currency, so what
 * an amount costs is a whole number of 10^-18 of it, and exact.
 */
typedef Amount Price;
typedef Amount Money;

#define PRICE_DECIMALS		12
#define PRICE_BOUND			((Price) 1000000000000 * 1000000000000)
#define MONEY_DECIMALS		(AMOUNT_DECIMALS + PRICE_DECIMALS)

/*
 * What is not reckoned with any more: 5 x 10^19 of the currency.  Twice that
 * still fits, so a sum of two can be compared with it.
 */
#define MONEY_OVERFLOW		((Money) 5000000000 * 10000000000 * 1000000000000000000)

/*
 * first value that is too large for one request, grant or limit: 10^18 units
 */
#define AMOUNT_BOUND		((Amount) 1000000000000000000 * AMOUNT_UNIT)

static inline Amount
amount_min(Amount a, Amount b)
{
	return a < b ? a : b;
}

static inline Amount
amount_max(Amount a, Amount b)
{
	return a > b ? a : b;
}

/* What an amount costs; MONEY_OVERFLOW if it is too much to tell */
static inline Money
amount_cost(Amount amount, Price price)
{
	Money		cost;

	if (__builtin_mul_overflow(amount, price, &cost) || cost > MONEY_OVERFLOW)
		return MONEY_OVERFLOW;
	return cost;
}

#endif							/* QUOTA_AMOUNT_H */

/* Rows of plain text to numbers and strings, as numpy.loadtxt reads them, or not at all.

   This parser knows plain rows only: ASCII, one separator, no quotes, decimal numbers that fit
   their column exactly as they are written, strings that are no wider than it. Where anything else
   comes it gives up the whole piece of text and says no more: numpy.loadtxt then reads the piece,
   and it, not this file, decides what the text means and which error it is. So everything here may
   be too strict, and nothing may be too lenient. `plain_rows.py` says which requests come here.

   Decimal fractions are correctly rounded, as Python's float() is, in one of three ways:
   - up to 2^53 times or over a power of ten up to 10^22: both are exact doubles, so one operation
     rounds once (W. D. Clinger, "How to read floating point numbers accurately", PLDI 1990);
   - 64 bits times or over a power of five up to 5^27: exact in integers of 128 bits, and then
     rounded to 53 bits, half to even, by hand; these numbers are neither huge nor subnormal;
   - strtod of the C library for all the rest.
   A float of 32 bits is the double, rounded once more, for that is what numpy does.

   No Python in here: it is called through ctypes, which lets go of the interpreter's lock. It reads
   text[0 .. length - 1], of which the last must be '\n', and nothing else. As every loop below ends
   at a '\n', none needs to look where the text ends. */

#define _GNU_SOURCE
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_NUMBER 100 /* characters; longer ones are numpy's */
#define MOST_DIGITS 19     /* fit 64 bits, whatever they are */
#define MOST_FIVES 27      /* 5^27 fits 63 bits */
#define GIVEN_UP (-1)

/* One column of the text, and where in a row of the result its values go. */
struct column {
    int64_t offset; /* bytes into the row */
    int32_t kind;   /* as in a dtype: i u f b S U; 0: skipped */
    int32_t size;   /* bytes */
};

/* What a character is for; fields end where one of the three does. */
enum { ORDINARY = 1, BLANK = 2, ODD = 4, SEPARATOR = 8, LINE_END = 16, RETURN = 32, ENDS = 56 };

struct text {
    const uint8_t *at;
    uint8_t class[256];
    bool spaced; /* any white space separates; otherwise one character does */
};

struct number {
    uint64_t digits; /* all of them, as an integer */
    int count;       /* of digits */
    int exponent;    /* of ten, that the digits are to be multiplied by */
    bool negative;
    bool integer; /* neither a point nor an exponent */
    bool exact;   /* the digits fit */
};

static locale_t c_locale;

static const double TENS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                              1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                              1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

/* Return how many lines end in the text; *odd: a line may be blank, indented or a comment, begins
   with other than ASCII, or ends with a lone '\r'. What follows the text counts as such a line.
   Written without a branch, so that the compiler can look at many bytes at once. */
int64_t arrayd_line_ends(const uint8_t *text, int64_t length, uint8_t comment, int32_t *odd) {
    int64_t ends = 0, at = 0;
    uint8_t strange = 0;
    if (length > 0)
        strange = text[0] <= ' ' || text[0] >= 127 || text[0] == comment || text[length - 1] == '\r';
    while (at < length - 1) {
        int64_t stop = length - 1 - at > 255 ? at + 255 : length - 1;
        uint8_t found = 0; /* at most 255 */
        for (; at < stop; at++) {
            uint8_t here = text[at], next = text[at + 1];
            uint8_t end = here == '\n';
            found += end;
            strange |= end & ((next <= ' ') | (next >= 127) | (next == comment));
            strange |= (here == '\r') & (next != '\n');
        }
        ends += found;
    }
    *odd = strange;
    return ends + (length > 0 && text[length - 1] == '\n');
}

static bool is_digit(uint8_t c) { return (uint8_t)(c - '0') <= 9; }

static bool ends_field(const struct text *text) {
    return text->class[*text->at] & ENDS;
}

/* Go over the blanks around a number, which are no part of it. */
static void skip_blanks(struct text *text) {
    while (text->class[*text->at] == BLANK)
        text->at++;
}

/* Take digits, a point, digits and an exponent; false if it is no such number. */
static bool take_number(struct text *text, struct number *number) {
    const uint8_t *at = text->at;
    uint64_t digits = 0;
    int after_point = 0, exponent = 0;
    number->negative = *at == '-';
    at += *at == '-' || *at == '+';
    const uint8_t *first = at;
    for (; is_digit(*at); at++)
        digits = digits * 10 + (*at - '0'); /* wraps around; see `exact` */
    number->count = at - first > LONGEST_NUMBER ? LONGEST_NUMBER : (int)(at - first);
    number->integer = true;
    if (*at == '.') {
        const uint8_t *point = ++at;
        for (; is_digit(*at); at++)
            digits = digits * 10 + (*at - '0');
        after_point = at - point > LONGEST_NUMBER ? LONGEST_NUMBER : (int)(at - point);
        number->count += after_point;
        number->integer = false;
    }
    if (number->count == 0)
        return false;
    if (*at == 'e' || *at == 'E') {
        bool below = *++at == '-';
        at += *at == '-' || *at == '+';
        const uint8_t *power = at;
        for (; is_digit(*at) && at - power < 4; at++)
            exponent = exponent * 10 + (*at - '0');
        if (at == power || is_digit(*at))
            return false;
        exponent = below ? -exponent : exponent;
        number->integer = false;
    }
    number->digits = digits;
    number->exact = number->count <= MOST_DIGITS;
    number->exponent = exponent - after_point;
    text->at = at;
    return true;
}

#ifdef __SIZEOF_INT128__
/* Return digits * 10^exponent, for digits > 0 and an exponent of up to 27 either way. */
static double by_integers(uint64_t digits, int exponent) {
    uint64_t five = 1;
    for (int i = exponent < 0 ? -exponent : exponent; i > 0; i--)
        five *= 5;
    /* `bits`, of which the highest is set, times 2^power; `rest`: and a little more. */
    uint64_t bits;
    bool rest;
    int power = exponent;
    if (exponent >= 0) {
        unsigned __int128 product = (unsigned __int128)digits * five;
        uint64_t high = (uint64_t)(product >> 64);
        int shift = high ? 64 - __builtin_clzll(high) : 0;
        bits = (uint64_t)(product >> shift);
        rest = shift && (uint64_t)product << (64 - shift);
        power += shift;
    } else {
        int up = __builtin_clzll(digits), five_up = __builtin_clzll(five);
        unsigned __int128 dividend = (unsigned __int128)(digits << up) << 63;
        uint64_t divisor = five << five_up; /* more than half of digits << up: 64 bits will do */
        bits = (uint64_t)(dividend / divisor);
        rest = (uint64_t)(dividend % divisor);
        power += five_up - up - 63;
    }
    int up = __builtin_clzll(bits);
    bits <<= up; /* `rest` stays below the bits that are rounded: there are 63 of the quotient */
    power -= up;
    uint64_t low = bits & 0x7ff, half = 0x400;
    bits >>= 11;
    bits += low > half || (low == half && (rest || (bits & 1)));
    return ldexp((double)bits, power + 11);
}
#endif

/* Return the double nearest to a number whose text is start .. text->at; NAN: not found. */
static double value_of(const struct text *text, const uint8_t *start, const struct number *number) {
    int exponent = number->exponent;
    double value;
    if (number->exact && number->digits == 0)
        return number->negative ? -0.0 : 0.0;
#if FLT_EVAL_METHOD == 0
    if (number->exact && number->digits <= (1ull << 53) && exponent >= -22 && exponent <= 22) {
        value = (double)number->digits;
        value = exponent < 0 ? value / TENS[-exponent] : value * TENS[exponent];
        return number->negative ? -value : value;
    }
#endif
#ifdef __SIZEOF_INT128__
    if (number->exact && exponent >= -MOST_FIVES && exponent <= MOST_FIVES) {
        value = by_integers(number->digits, exponent);
        return number->negative ? -value : value;
    }
#endif
    char copy[LONGEST_NUMBER + 1] = "";
    size_t length = (size_t)(text->at - start);
    if (length > LONGEST_NUMBER || c_locale == (locale_t)0)
        return NAN;
    memcpy(copy, start, length);
    return strtod_l(copy, NULL, c_locale);
}

/* Whether the text goes on with a word, which is in small letters; then go over it. */
static bool take_word(struct text *text, const char *word) {
    const uint8_t *at = text->at;
    for (; *word; word++, at++)
        if ((*at | 0x20) != *word)
            return false;
    text->at = at;
    return true;
}

/* Whether a value is what the text says if that is an integer: 2^24 + 1 is no float of 32 bits.
   first_gap: above it the type has no longer all integers. */
static bool holds(const struct number *number, double value, double first_gap) {
    double size = fabs(value);
    if (!number->integer || size < first_gap)
        return true;
    return number->exact && size < 0x1p64 && (uint64_t)size == number->digits;
}

static bool take_float(struct text *text, uint8_t *out, int size) {
    const uint8_t *start = text->at;
    struct number number = {.exact = true};
    double value;
    if (take_number(text, &number)) {
        value = value_of(text, start, &number);
        double kept = size == 4 ? (double)(float)value : value;
        if (!isfinite(kept) || !holds(&number, kept, size == 4 ? 0x1p24 : 0x1p53))
            return false;
    } else {
        text->at = start; /* a NaN with a sign is left to numpy, which may keep the sign */
        bool negative = *start == '-';
        text->at += *start == '-' || *start == '+';
        if (text->at == start && take_word(text, "nan"))
            value = NAN;
        else if (take_word(text, "inf"))
            value = negative ? -INFINITY : INFINITY;
        else
            return false;
        if (*text->at == 'i' || *text->at == 'I')
            if (isnan(value) || !take_word(text, "inity"))
                return false;
    }
    float narrow = (float)value;
    memcpy(out, size == 4 ? (void *)&narrow : (void *)&value, size == 4 ? 4 : 8);
    return true;
}

static bool take_integer(struct text *text, uint8_t *out, int kind, int size) {
    const uint8_t *at = text->at;
    bool negative = *at == '-';
    at += *at == '-' || *at == '+';
    const uint8_t *first = at;
    uint64_t digits = 0;
    for (; is_digit(*at); at++)
        digits = digits * 10 + (*at - '0');
    int64_t count = at - first;
    /* Of 20 digits that begin with 1, those beyond 64 bits have wrapped around to less. */
    if (count > MOST_DIGITS && (count > 20 || *first != '1' || digits < 10000000000000000000u))
        return false;
    if (count == 0 || (negative && kind != 'i'))
        return false;
    uint64_t most = kind == 'b' ? 1 : UINT64_MAX >> (64 - 8 * size + (kind == 'i'));
    if (digits > most + negative)
        return false;
    text->at = at;
    digits = negative ? 0 - digits : digits;
    if (size == 4) /* the low bytes are the first: plain_rows.py looks */
        memcpy(out, &digits, 4);
    else
        memcpy(out, &digits, (size_t)size);
    return true;
}

/* Take what is before the next separator as a string, with zeros behind it. */
static bool take_string(struct text *text, uint8_t *out, int kind, int size) {
    const uint8_t *at = text->at;
    int unit = kind == 'U' ? 4 : 1;
    uint8_t *end = out + size;
    for (; text->class[*at] & (ORDINARY | BLANK); at++) {
        if (out == end)
            return false;
        uint32_t character = *at;
        if (unit == 1)
            *out = (uint8_t)character;
        else
            memcpy(out, &character, 4);
        out += unit;
    }
    memset(out, 0, (size_t)(end - out));
    text->at = at;
    return true;
}

static bool skip_field(struct text *text) {
    const uint8_t *at = text->at;
    while (text->class[*at] & (ORDINARY | BLANK))
        at++;
    text->at = at;
    return true;
}

static bool take_field(struct text *text, uint8_t *row, const struct column *column) {
    uint8_t *out = row + column->offset;
    bool taken;
    switch (column->kind) {
    case 'f':
        skip_blanks(text);
        taken = take_float(text, out, column->size);
        break;
    case 'i':
    case 'u':
    case 'b':
        skip_blanks(text);
        taken = take_integer(text, out, column->kind, column->size);
        break;
    case 'S':
    case 'U':
        return take_string(text, out, column->kind, column->size);
    default:
        return skip_field(text);
    }
    skip_blanks(text);
    return taken;
}

/* Go to what follows a field; true if that is another field. */
static bool next_field(struct text *text) {
    if (text->class[*text->at] != SEPARATOR)
        return false;
    do
        text->at++;
    while (text->spaced && text->class[*text->at] == SEPARATOR);
    return !text->spaced || !ends_field(text);
}

/* Go behind the end of the line, over columns that nobody asked for; false if it is odd. */
static bool end_line(struct text *text, bool more) {
    const uint8_t *at = text->at;
    while (more && text->class[*at] & (ORDINARY | BLANK | SEPARATOR))
        at++;
    at += text->class[*at] == RETURN;
    text->at = at + 1;
    return text->class[*at] == LINE_END;
}

static void classify(struct text *text, int separator, int comment) {
    for (int c = 0; c < 256; c++)
        text->class[c] = c < ' ' || c >= 127 ? ODD : ORDINARY;
    text->spaced = separator < 0;
    text->class[' '] = text->class['\t'] = text->spaced ? SEPARATOR : BLANK;
    if (!text->spaced)
        text->class[separator] = SEPARATOR;
    if (comment)
        text->class[comment] = ODD;
    text->class['\n'] = LINE_END;
    text->class['\r'] = RETURN;
}

/* Read whole lines.
   separator: a character; negative: white space. comment: a character; 0: none. more: there may be
   columns behind those that are described. out: room for max_rows rows of row_bytes bytes.
   Returns the rows; GIVEN_UP: not all is plain, and what was written to `out` means nothing. */
int64_t arrayd_plain_rows(const uint8_t *start, int64_t length, int32_t separator, int32_t comment,
                          const struct column *columns, int64_t count, int32_t more, uint8_t *out,
                          int64_t max_rows, int64_t row_bytes) {
    struct text text = {.at = start};
    const uint8_t *stop = start + length;
    int64_t rows = 0;
    if (length <= 0 || stop[-1] != '\n' || count <= 0)
        return GIVEN_UP;
    classify(&text, separator, comment);
    for (; text.at < stop; rows++, out += row_bytes) {
        while (text.spaced && text.class[*text.at] == SEPARATOR)
            text.at++;
        if (ends_field(&text) && text.class[*text.at] != SEPARATOR) {
            if (!end_line(&text, false)) /* a blank line is no row */
                return GIVEN_UP;
            rows--, out -= row_bytes;
            continue;
        }
        if (rows == max_rows)
            return GIVEN_UP;
        for (int64_t i = 0; i < count; i++) {
            if (i > 0 && !next_field(&text))
                return GIVEN_UP;
            if (!take_field(&text, out, &columns[i]) || !ends_field(&text))
                return GIVEN_UP;
        }
        bool further = next_field(&text);
        if ((further && !more) || !end_line(&text, further))
            return GIVEN_UP;
    }
    return rows;
}

/* Once, before the first call of arrayd_plain_rows, and by one thread. */
void arrayd_plain_start(void) { c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); }

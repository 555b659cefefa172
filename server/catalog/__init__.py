"""The catalog, forks, checkpoint trees and heads."""
